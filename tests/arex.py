"""A private ARC compute element: A-REX 6.17 with its fork backend, REST over HTTPS, certificates and tokens of its own.

Its jobs run as nobody. The packaged fork backend is made for demonstrations: it looks for ended jobs every 10 s, leaves
the processes of cancelled ones behind, and knows no queue. So a copy of A-REX's scripts is used, with these few lines
changed: it looks every half second, ends whole process trees, keeps jobs queued while a file `full` is there, and tells
suspended jobs (SIGSTOP) as such; the information system, which states beyond "in the batch system" come from, is
refreshed every 2 s instead of every 60.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from tests.certificates import Authority, User, subject
from tests.servers import STARTUP, find_program, free_port, server_folder
from tests.token_issuer import TokenIssuer
from tests.waiting import eventually

PACKAGED = Path("/usr/share/arc")
QUEUE = "fork"
USER = "pilots"
TOKEN_SUBJECT = "penstock"
_OUR_AUTHORITY = 'mount --bind "$0" /etc/grid-security/certificates && exec "$@"'
"""The keys of an issuer of tokens are fetched with the authorities of this folder, whatever `x509_cert_dir` says; so it
is another one for A-REX alone."""
_DAEMONS = ("arc-arex-start", "arc-arex-ws-start")

_CONFIGURATION = """\
[common]
hostname=localhost
x509_host_key={folder}/host.key
x509_host_cert={folder}/host.pem
x509_cert_dir={folder}/certificates
[authgroup:pilots]
subject={subject}
authtokens={token_subject} {issuer} * * *
[mapping]
map_to_user=pilots nobody:nogroup
[authtokens]
[lrms]
lrms=fork
[arex]
loglevel=3
logfile={folder}/log/arex.log
joblog={folder}/log/jobs.log
helperlog={folder}/log/helper.log
controldir={folder}/control
sessiondir={folder}/session
tmpdir={folder}/tmp
pidfile={folder}/arex.pid
wakeupperiod=1
[arex/ws]
wsurl={url}
logfile={folder}/log/ws.log
pidfile={folder}/ws.pid
[arex/ws/jobs]
allownew={takes}
allowaccess=pilots
[infosys]
logfile={folder}/log/info.log
[infosys/cluster]
[infosys/glue2]
[queue:fork]
"""

_AGAIN = 'kill -0 $PPID 2>/dev/null && exec "$0" --config "$ARC_CONFIG" "$@"'  # A-REX waits 10 s before it does
_TREE = 'tree() { for c in $(ps -o pid= --ppid "$1"); do tree "$c"; done; echo "$1"; }; all=$(tree $joboption_jobid)'
_WAIT = """sh -c 'while [ -e "$0" ]; do sleep 0.1; done; exec "$1"' {full} "$1\""""
_STATE = """\
my $state = do { local $/; open my $f, '<', "/proc/$id/status"; <$f> // '' } =~ /^State:\\s+T/m ? 'S'
                : (grep { $_->{ppid} == $id and $_->{comm} eq 'sh' } @procinfo) ? 'Q' : 'R';
            $lrms_jobs->{$id}{status} = $state;"""
_PARSE = "eval $( $pkglibexecdir/arcconfig-parser --load -r ${ARC_CONFIG} --export bash -b $block $optfilter )"
_PARSE_ONCE = f"""\
parsed={{tmp}}/$block.$joboption_lrms.$(id -u)
    [ -e "$parsed" ] || {{ {_PARSE[len("eval $(") : -1]} > "$parsed.$$"; mv "$parsed.$$" "$parsed"; }}
    . "$parsed\""""
_CHECK = 'eval "$CHECK_CMD --config $ARC_CONFIG $@"'
_CHANGES = {
    "scan-fork-job": [("sleep 10\n", f"sleep 0.5\n{_AGAIN}\n")],
    "submit-fork-job": [("    sleep 1\n", "    sleep 0.1\n"), ('    "$1" > "$2" 2>&1 &', f'    {_WAIT} > "$2" 2>&1 &')],
    "cancel-fork-job": [
        ("kill -TERM $joboption_jobid", f"{_TREE}; kill -CONT $all; kill -TERM $all"),
        ("sleep 5", "sleep 1"),
        ("kill -KILL $joboption_jobid", "kill -KILL $all"),
    ],
    "FORKmod.pm": [("$lrms_jobs->{$id}{status} = 'R';", _STATE)],
    "lrms_common.sh": [(_PARSE, _PARSE_ONCE)],
    "arc-arex-ws-start": [(_CHECK, "true")],
    "arc-arex-start": [
        (_CHECK, "true"),
        ("      $arex_endpoint\n", "$arex_endpoint<arex:InfoproviderWakeupPeriod>2</arex:InfoproviderWakeupPeriod>"),
    ],
}


class ArexServer:
    """The server, and whom it lets in: a user by certificate, and the subject TOKEN_SUBJECT of an issuer by token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"https://localhost:{self.port}/arex"
        self._takes = True
        self._software = folder / "software"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._begun: list[tuple[list[str], dict[str, str]]] = []
        """What the start scripts have made of themselves: they need four seconds for that, only once."""
        self.authority = Authority(folder / "certificates")
        self.user: User = self.authority.user(USER)
        self.issuer = TokenIssuer(self.authority)

    @property
    def ca_dir(self) -> Path:
        """The folder with the authority's certificate."""
        return self.authority.folder

    @property
    def proxy_file(self) -> Path:
        """Certificate and key of a user whom it lets in."""
        return self.folder / "user.pem"

    def install(self) -> None:
        """Lay out its folder, with the changed copy of the scripts."""
        assert PACKAGED.is_dir(), (
            "A-REX is not installed; run: apt-get install --no-install-recommends nordugrid-arc-arex"
        )
        self.folder.chmod(0o755)
        for name in ("control", "session", "log", "tmp", "software/share"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "tmp").chmod(0o1777)
        certificate, key = self.authority.host()
        (self.folder / "host.pem").write_text(certificate)
        self.write_secret("host.key", key)
        self.write_secret("user.pem", self.user.pem)
        for name in ("bin", "sbin", "lib"):
            (self._software / name).symlink_to(Path("/usr") / name)
        shutil.copytree(PACKAGED, self._software / "share" / "arc", symlinks=True)
        for name, changes in _CHANGES.items():
            self._change(self._software / "share" / "arc" / name, changes)
        self._make_dh_parameters()

    def start(self) -> None:
        """Start its two daemons and wait until they serve; AssertionError with their logs when they do not."""
        self._configure()
        begun = self._begun or [(self._start_command(name), self._environment()) for name in _DAEMONS]
        self._processes = [self._spawn(*one) for one in begun]
        try:
            eventually(self._answers, within=STARTUP)
        except AssertionError as error:
            raise AssertionError(f"A-REX does not answer:\n{self._logs()}") from error
        daemons = [psutil.Process(process.pid) for process in self._processes]
        self._begun = [(daemon.cmdline(), daemon.environ()) for daemon in daemons]

    def stop(self) -> None:
        """End the daemons; jobs run on, and what it knows of them is kept. May be called twice."""
        for process in self._processes:
            process.kill()  # an orderly end takes it eight seconds
            process.wait()
        self._processes = []

    def close(self) -> None:
        """End everything, jobs too."""
        self.stop()
        self.issuer.close()
        for process in self._left():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        eventually(lambda: not self._left(), within=STARTUP)

    def freeze(self) -> None:
        """Stop its web service: it takes connections and answers nothing."""
        psutil.Process(self._processes[1].pid).suspend()

    def thaw(self) -> None:
        """Let it go on."""
        psutil.Process(self._processes[1].pid).resume()

    def take(self, *, new: bool) -> None:
        """Start it anew, so that it takes new jobs or refuses them: its administrator drains it."""
        self._takes = new
        self.stop()
        self.start()

    def write_secret(self, name: str, text: str) -> Path:
        """A file in its folder that only its owner may read."""
        file = self.folder / name
        file.touch(0o600)
        file.write_text(text)
        return file

    def fill(self, *, full: bool) -> None:
        """`full`: what comes to the fork backend stays queued there; else what is left there starts, once A-REX has
        carried out what it was told to kill."""
        if full:
            (self.folder / "full").touch()
        else:
            eventually(lambda: not self._cancelling(), within=STARTUP)
            (self.folder / "full").unlink(missing_ok=True)

    def suspend(self, job_id: str) -> None:
        """Stop the processes of a job in the fork backend, as a batch system's administrator would suspend it."""

        def stopped() -> bool:
            try:
                processes = self._processes_of(job_id)
                for process in processes:
                    process.suspend()
            except psutil.NoSuchProcess:  # one that only started the others
                return False
            return bool(processes)

        eventually(stopped, within=STARTUP)

    def resume(self, job_id: str) -> None:
        """Let a suspended job go on."""
        with suppress(psutil.NoSuchProcess):  # it was removed
            for process in self._processes_of(job_id):
                process.resume()

    def control_file(self, job_id: str, name: str) -> str:
        """What its control folder says of a job; "" when there is no such file."""
        file = self.folder / "control" / f"job.{job_id}.{name}"
        return file.read_text() if file.exists() else ""

    def _cancelling(self) -> bool:
        control = self.folder / "control"
        for status in (control / "processing").glob("job.*.status"):
            with suppress(FileNotFoundError):
                if status.read_text().strip() == "CANCELING":
                    return True
        return any(control.glob("*/job.*.cancel"))

    def _processes_of(self, job_id: str) -> list[psutil.Process]:
        """Those of a job that has come to the fork backend, its leader first."""
        for line in self.control_file(job_id, "local").splitlines():
            name, _, value = line.partition("=")
            if name == "localid" and value:
                leader = psutil.Process(int(value))
                return [leader, *leader.children(recursive=True)]
        return []

    def _configure(self) -> None:
        configuration = self.folder / "arc.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=self.folder,
                subject=subject(USER),
                token_subject=TOKEN_SUBJECT,
                issuer=self.issuer.url,
                takes="yes" if self._takes else "no",
                url=self.url,
            )
        )
        for name in ("arex.cfg", "ws.cfg") if self._begun else ():
            parser = str(self._software / "lib" / "arc" / "arcconfig-parser")
            command = [parser, "--config", str(configuration), "--runconfig", str(self.folder / name), "--save"]
            subprocess.run(command, check=True, capture_output=True, env=self._environment())

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "ARC_LOCATION": str(self._software),
            "ARC_CONFIG": str(self.folder / "arc.conf"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    def _start_command(self, name: str) -> list[str]:
        return [str(self._software / "share" / "arc" / name), "-f"]

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        enter = ["unshare", "--mount", "sh", "-c", _OUR_AUTHORITY, str(self.ca_dir)]
        with (self.folder / "log" / "start.log").open("ab") as log:
            return subprocess.Popen([*enter, *command], env=environment, stdout=log, stderr=log, cwd=self.folder)

    def _answers(self) -> bool:
        ended = [process.args for process in self._processes if process.poll() is not None]
        assert not ended, f"{ended} ended:\n{self._logs()}"
        context = ssl.create_default_context(cafile=self.authority.file)
        context.load_cert_chain(self.proxy_file)
        try:
            answer = httpx.get(f"{self.url}/rest/1.0/jobs", verify=context, timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and (self.folder / "control" / "gm-heartbeat").exists()

    def _logs(self) -> str:
        return "\n".join(file.read_text()[-2000:] for file in sorted((self.folder / "log").glob("*.log")))

    def _left(self) -> list[psutil.Process]:
        """Processes that the server has started."""
        return [process for process in psutil.process_iter() if _comes_from(process, self.folder)]

    def _make_dh_parameters(self) -> None:
        """A-REX would spend two minutes of a processor on finding some."""
        file = self.folder / "control" / "dhparam.pem"
        command = ["openssl", "genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048", "-out"]
        subprocess.run([*command, str(file)], check=True, capture_output=True)

    def _change(self, script: Path, changes: list[tuple[str, str]]) -> None:
        text = script.read_text()
        for old, new in changes:
            assert text.count(old) == 1, (
                f"{script.name} of this A-REX is another: {old!r} is there {text.count(old)} times"
            )
            text = text.replace(
                old, new.replace("{full}", str(self.folder / "full")).replace("{tmp}", str(self.folder / "tmp"))
            )
        script.write_text(text)


def _comes_from(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get("ARC_CONFIG", "").startswith(str(folder))
    except psutil.Error:
        return False


@contextmanager
def running_arex() -> Iterator[ArexServer]:
    """An A-REX for as long as the block lasts."""
    find_program(["arched"], "nordugrid-arc-arex")
    with server_folder("arex") as folder:
        server = ArexServer(folder)
        try:
            server.install()
            server.start()
            yield server
        finally:
            server.close()
