"""A private ActiveMQ Classic for tests: STOMP on a free port, its messages on disk, small and quick to start."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from tests.servers import Server, find_program, free_port, server_folder

_HOME = Path("/usr/share/activemq")
_JARS = Path("/usr/share/java")
_TRANSFORMERS = ("xstream.jar", "jettison.jar")
"""What ActiveMQ turns its statistics into JSON with; Debian only recommends them, upstream ships them."""

_BROKER = Template("""\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans
         http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
         http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="tests" dataDirectory="$folder/data"
          useJmx="false" schedulerSupport="false">
    <persistenceAdapter>
      <kahaDB directory="$folder/data/kahadb" journalMaxFileLength="16mb"/>
    </persistenceAdapter>
    <plugins>
      <statisticsBrokerPlugin/>
      <simpleAuthenticationPlugin>
        <users><authenticationUser username="guest" password="guest" groups="users"/></users>
      </simpleAuthenticationPlugin>
    </plugins>
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp://127.0.0.1:$port"/>
    </transportConnectors>
  </broker>
</beans>
""")

_LOGGING = """\
log4j.rootLogger=WARN, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d %-5p %m%n
"""


class ActiveMqServer(Server):
    """An ActiveMQ Classic whose messages survive its restart; user and password are guest."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"stomp://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [
            find_program(["java"], "activemq"),
            *("-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:+UseSerialGC", "-Xms64m", "-Xmx384m"),
            *(f"-Dactivemq.home={_HOME}", f"-Dactivemq.base={self.folder}", f"-Dactivemq.conf={self.folder}"),
            *(f"-Dactivemq.data={self.folder / 'data'}", f"-Djava.io.tmpdir={self.folder}"),
            *(f"-Dlog4j.configuration=file:{self.folder / 'log4j.properties'}", "-jar", f"{_HOME}/bin/activemq.jar"),
            *("start", "--extdir", str(self.folder / "lib"), f"xbean:file:{self.folder / 'activemq.xml'}"),
        ]

    def start(self) -> None:
        self._write_settings()
        super().start()

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")
                return connection.recv(9) == b"CONNECTED"
        except OSError:
            return False

    def _write_settings(self) -> None:
        assert _HOME.is_dir(), "ActiveMQ is not installed; run: apt-get install --no-install-recommends activemq"
        (self.folder / "activemq.xml").write_text(_BROKER.substitute(folder=self.folder, port=self.port))
        (self.folder / "log4j.properties").write_text(_LOGGING)
        library = self.folder / "lib"
        library.mkdir(exist_ok=True)
        for name in _TRANSFORMERS:
            jar = _JARS / name
            assert jar.exists(), f"{jar} is missing; run: apt-get install libxstream-java libjettison-java"
            link = library / name
            if not link.is_symlink():
                link.symlink_to(jar)


@contextmanager
def running_activemq() -> Iterator[ActiveMqServer]:
    """An ActiveMQ for as long as the block lasts."""
    with server_folder("activemq") as folder, ActiveMqServer(folder) as server:
        yield server
