"""The way onto machines by SSH: for every provider whose machines run sshd. paramiko is imported only once somebody connects."""

from falplan.sdk.ssh.keys import HostKeyRefused
from falplan.sdk.ssh.shell import SshShell
from falplan.sdk.ssh.target import Credentials, Target

__all__ = ["Credentials", "HostKeyRefused", "SshShell", "Target"]
