"""The fields of KEDA's ScaledObject that we may use: kubernetes-validate has no schema of it.

Source: KEDA's own types, `apis/keda/v1alpha1/scaledobject_types.go` (ScaledObjectSpec, ScaleTarget, ScaleTriggers,
AdvancedConfig) and `pkg/scalers/prometheus_scaler.go` (prometheusMetadata), as of KEDA 2.17; a field that is not
there is refused, and what its operator refuses is refused: bounds that contradict each other, a value that is no
string. `behavior` is Kubernetes' own and checked against its schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator
from pydantic.alias_generators import to_camel

Count = Annotated[StrictInt, Field(ge=0)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class ScaleTarget(_Fields):
    """What is scaled; a Deployment unless said otherwise."""

    name: StrictStr
    api_version: StrictStr = "apps/v1"
    kind: StrictStr = "Deployment"
    env_source_container_name: StrictStr = ""


class PrometheusMetadata(_Fields):
    """The prometheus scaler's; a map of strings, whatever they stand for."""

    server_address: StrictStr = Field(pattern="^https?://")
    query: StrictStr
    threshold: StrictStr = Field(pattern=r"^\d+(\.\d+)?$")
    activation_threshold: StrictStr = Field(default="0", pattern=r"^\d+(\.\d+)?$")
    ignore_null_values: Literal["true", "false"] = "true"
    namespace: StrictStr = ""
    custom_headers: StrictStr = ""
    query_parameters: StrictStr = ""
    unsafe_ssl: Literal["true", "false"] = "false"
    auth_modes: StrictStr = ""
    timeout: StrictStr = ""


class Trigger(_Fields):
    """One source; ours are all Prometheus."""

    type: Literal["prometheus"]
    metadata: PrometheusMetadata
    name: StrictStr = ""
    metric_type: Literal["AverageValue", "Value"] = "AverageValue"
    use_cached_metrics: bool = False
    authentication_ref: dict[str, str] | None = None


class AutoscalerConfig(_Fields):
    """What is handed to the HorizontalPodAutoscaler."""

    name: StrictStr = ""
    behavior: dict[str, Any] | None = None


class Advanced(_Fields):
    """Rarely needed."""

    horizontal_pod_autoscaler_config: AutoscalerConfig | None = None
    restore_to_original_replica_count: bool = False


class ScaledObjectSpec(_Fields):
    """How many replicas something has, and why."""

    scale_target_ref: ScaleTarget
    triggers: tuple[Trigger, ...] = Field(min_length=1)
    polling_interval: Count = 30
    initial_cooldown_period: Count = 0
    cooldown_period: Count = 300
    idle_replica_count: Count | None = None
    min_replica_count: Count = 0
    max_replica_count: Count = 100
    advanced: Advanced | None = None

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.min_replica_count > self.max_replica_count:
            raise ValueError("minReplicaCount is more than maxReplicaCount")
        if self.idle_replica_count is not None and self.idle_replica_count >= self.min_replica_count:
            raise ValueError("idleReplicaCount must be less than minReplicaCount")
        return self


class ScaledObject(_Fields):
    """The whole object."""

    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: dict[str, Any]
    spec: ScaledObjectSpec
