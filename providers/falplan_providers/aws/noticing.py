"""What a machine runs to learn that EC2 takes it back: two minutes before, its metadata says so.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

from __future__ import annotations

SCRIPT = """\
#!/usr/bin/env python3
# Writes down where this machine's control plane looks that EC2 takes it back. IMDSv2: each question with a token.
import os, time, urllib.request

BASE = os.environ.get("FALPLAN_METADATA", "http://169.254.169.254") + "/latest"
PATH = os.environ.get("FALPLAN_NOTICE", "{notice}")


def ask(path, verb, header, value):
    question = urllib.request.Request(BASE + path, method=verb, headers={{header: value}})
    with urllib.request.urlopen(question, timeout=2) as answer:
        return answer.read().decode()


while True:
    try:
        token = ask("/api/token", "PUT", "X-aws-ec2-metadata-token-ttl-seconds", "60")
        told = ask("/meta-data/spot/instance-action", "GET", "X-aws-ec2-metadata-token", token)
        with open(PATH + ".new", "w") as file:
            file.write(told)
        os.replace(PATH + ".new", PATH)
    except OSError:
        pass  # as it is until the notice comes: 404
    time.sleep({pace})
"""

PACE = 5
"""Seconds between questions: as often as AWS advises."""


def script(notice: str) -> str:
    """`notice` is the file that it is written to."""
    return SCRIPT.format(notice=notice, pace=PACE)
