# intent_ref: tests.kafka-broker
"""A real Kafka broker for tests: one node in KRaft mode on loopback, from the artifacts that Maven resolves.

It is a process of its own, which tests kill and start again with its log kept. `QUANTUM_TEST_KAFKA_BOOTSTRAP` names a broker
instead, which then cannot be killed. Nothing here says where artifacts come from: that is the machine's Maven's own affair.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from platformdirs import user_cache_path

from tests.platforms import free_port

VERSION = "4.1.0"
NAMED = "QUANTUM_TEST_KAFKA_BOOTSTRAP"
USER, PASSWORD = "quantum", "quantum-secret"  # of the listener with TLS; worth nothing outside of a test
_START_SECONDS_MAX = 60.0
_RESOLVE_SECONDS_MAX = 600.0
_CLUSTER = "4L6g3nShT-eMCtK--X86sw"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>quantum</groupId><artifactId>test-broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""
_JAVA = (
    "java", "-Xmx320m", "-Xms96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true",
)  # fmt: skip
_JAAS = "org.apache.kafka.common.security"


def why_not() -> str | None:
    """Why no broker can run here; None when one can, or is named."""
    if os.environ.get(NAMED):
        return None
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    return f"no Kafka broker: {' and '.join(missing)} missing, and {NAMED} is not set" if missing else None


def classpath() -> Path:
    """The folder of Kafka's jars, resolved by Maven at first use and kept in the user's cache."""
    folder = user_cache_path("quantum-tests") / f"kafka-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            (folder / "pom.xml").write_text(_POM, encoding="utf-8")
            resolved = subprocess.run(
                ["mvn", "-q", "-B", "-f", str(folder / "pom.xml"), "dependency:copy-dependencies",
                 f"-DoutputDirectory={folder / 'lib'}", "-DincludeScope=runtime"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_RESOLVE_SECONDS_MAX, check=False,
            )  # fmt: skip
            if resolved.returncode != 0:
                pytest.skip(f"no Kafka broker: Maven cannot resolve it: {resolved.stdout[-300:]}")
            (folder / "complete").touch()
    return folder / "lib"


class KafkaBroker:
    """One broker, always at the same ports, with its log in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.named = os.environ.get(NAMED)
        self._topics = f"quantum-test-{directory.name}"
        self.port, self.secure_port, self._controller_port = free_port(), free_port(), free_port()
        self.ca_file = directory / "ca.pem"
        self._process: subprocess.Popen[bytes] | None = None
        self._lib: Path | None = None

    @property
    def bootstrap(self) -> str:
        """Where clients find it."""
        return self.named or f"127.0.0.1:{self.port}"

    @property
    def is_ours(self) -> bool:
        """False where the environment names it: then it is not ours to kill, and has no secure listener we know of."""
        return self.named is None

    def topic(self, name: str) -> str:
        """A topic's name that no other run of the tests has."""
        return f"{self._topics}.{name}"

    @property
    def secure_bootstrap(self) -> str:
        """The listener with TLS, PLAIN and SCRAM, for `USER` with `PASSWORD`, certified by `ca_file`."""
        return f"localhost:{self.secure_port}"

    async def start(self) -> None:
        """Starts the process and waits until it answers; the first time it makes its log directory."""
        if self.named is not None:
            return
        assert self._process is None, "it runs already"
        if self._lib is None:
            self._lib = await asyncio.to_thread(classpath)
            await asyncio.to_thread(self._format)
        self._spawn()
        await self._answers()

    def _spawn(self) -> None:
        with (self.directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_JAVA, "-cp", f"{self._lib}/*", "kafka.Kafka", str(self.directory / "server.properties")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, as an orderly restart begins."""
        await asyncio.to_thread(self._end, signal.SIGTERM)

    def freeze(self) -> None:
        """The process stands still, its connections stay open: as a machine that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    async def _answers(self) -> None:
        from aiokafka.admin import AIOKafkaAdminClient
        from aiokafka.errors import KafkaError

        deadline = time.monotonic() + _START_SECONDS_MAX
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"the broker ended:\n{self._log_tail()}"
            assert time.monotonic() < deadline, f"the broker does not answer:\n{self._log_tail()}"
            if _listens(self.port):
                admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5_000)
                with contextlib.suppress(KafkaError, OSError, TimeoutError):
                    try:
                        await admin.start()
                        return
                    finally:
                        await admin.close()
            await asyncio.sleep(0.05)

    def _log_tail(self) -> str:
        return (self.directory / "broker.log").read_text(errors="replace")[-2_000:]

    def _format(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        keystore = _certificates(self.directory)
        (self.directory / "server.properties").write_text(self._properties(keystore), encoding="utf-8")
        formatted = subprocess.run(
            [*_JAVA, "-cp", f"{self._lib}/*", "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c",
             str(self.directory / "server.properties"), "--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]",
             "--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_START_SECONDS_MAX, check=False,
        )  # fmt: skip
        assert formatted.returncode == 0, formatted.stdout + formatted.stderr

    def _properties(self, keystore: Path) -> str:
        secure = "listener.name.secure"
        plain = f'{_JAAS}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        return "\n".join(
            (
                "process.roles=broker,controller", "node.id=1", f"log.dirs={self.directory / 'data'}",
                f"listeners=OPEN://127.0.0.1:{self.port},SECURE://127.0.0.1:{self.secure_port}"
                f",CONTROLLER://127.0.0.1:{self._controller_port}",
                f"advertised.listeners=OPEN://127.0.0.1:{self.port},SECURE://localhost:{self.secure_port}",
                "listener.security.protocol.map=OPEN:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
                "controller.listener.names=CONTROLLER", "inter.broker.listener.name=OPEN",
                f"controller.quorum.voters=1@127.0.0.1:{self._controller_port}",
                f"{secure}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                f"{secure}.plain.sasl.jaas.config={plain}",
                f"{secure}.scram-sha-256.sasl.jaas.config={_JAAS}.scram.ScramLoginModule required;",
                f"{secure}.scram-sha-512.sasl.jaas.config={_JAAS}.scram.ScramLoginModule required;",
                f"{secure}.ssl.keystore.type=PEM", f"{secure}.ssl.keystore.location={keystore}",
                "auto.create.topics.enable=false", "num.network.threads=2", "num.io.threads=2", "num.partitions=4",
                "offsets.topic.num.partitions=4", "offsets.topic.replication.factor=1",
                "transaction.state.log.num.partitions=1", "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1", "group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=1000",
                # A killed broker's registration is in its successor's way until its session has ended.
                "broker.session.timeout.ms=1000", "broker.heartbeat.interval.ms=250",
                "log.cleaner.enable=false", "controlled.shutdown.enable=true", "",
            )
        )  # fmt: skip


def _listens(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(0.5)
        return one.connect_ex(("127.0.0.1", port)) == 0


def _certificates(directory: Path) -> Path:
    """An authority and a certificate for `localhost` under it; the broker's key store, as PEM."""
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)

    def builder(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=7))
        )  # fmt: skip

    root = builder(issuer, authority).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    leaf = builder(subject, server).add_extension(names, critical=False)
    pem = serialization.Encoding.PEM
    root_pem = root.sign(authority, hashes.SHA256()).public_bytes(pem)
    leaf_pem = leaf.sign(authority, hashes.SHA256()).public_bytes(pem)
    key_pem = server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "ca.pem").write_bytes(root_pem)
    keystore = directory / "keystore.pem"
    keystore.write_bytes(key_pem + leaf_pem + root_pem)
    return keystore


@contextlib.asynccontextmanager
async def kafka_broker() -> AsyncIterator[KafkaBroker]:
    """A broker of one's own, gone at the end with all it held. Skips the test, with the reason, where none can run."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="quantum-kafka-"))
    broker = KafkaBroker(directory)
    try:
        await broker.start()
        yield broker
    finally:
        broker.kill()
        shutil.rmtree(directory, ignore_errors=True)
