"""What a machine does when it boots, for cloud-init: lets the control plane in, and ends by itself once nobody looks after it.

It also tells the control plane when EC2 takes it back.
"""

from __future__ import annotations

import json
import textwrap

from falplan.sdk.launches import HEARD, NOTICE

from .noticing import script

USER = "falplan"
"""Who the control plane logs in as, and runners run as."""
FOLDER = "/var/lib/falplan"

_CONFIG = """\
#cloud-config
users:
  - default
  - name: {user}
    shell: /bin/bash
    groups: [docker]
    lock_passwd: true
    ssh_authorized_keys: [{access}]
write_files:
  - path: /usr/local/lib/falplan-deadman
    permissions: "0755"
    content: |
      #!/bin/sh
      # Ends this machine once its control plane has not been heard for {after} seconds. Powering off terminates it.
      up=$(cut -d. -f1 /proc/uptime)
      heard=$(stat -c %Y {heard} 2>/dev/null || echo 0)
      age=$(($(date +%s) - heard))
      [ "$age" -lt "$up" ] || age=$up
      [ "$age" -lt {after} ] || exec systemctl poweroff
  - path: /etc/systemd/system/falplan-deadman.service
    content: |
      [Unit]
      Description=End this machine if its control plane is gone
      [Service]
      Type=oneshot
      ExecStart=/usr/local/lib/falplan-deadman
  - path: /etc/systemd/system/falplan-deadman.timer
    content: |
      [Unit]
      Description=Look whether the control plane of this machine is there
      [Timer]
      OnBootSec=60
      OnUnitActiveSec=60
      [Install]
      WantedBy=timers.target
  - path: /usr/local/lib/falplan-notices
    permissions: "0755"
    content: |
{notices}
  - path: /etc/systemd/system/falplan-notices.service
    content: |
      [Unit]
      Description=Note that this machine is taken back
      [Service]
      ExecStart=/usr/local/lib/falplan-notices
      Restart=always
      RestartSec=5
      [Install]
      WantedBy=multi-user.target
runcmd:
  - [install, -d, -m, "0700", -o, {user}, -g, {user}, {folder}]
  - [systemctl, daemon-reload]
  - [systemctl, enable, --now, falplan-deadman.timer]
  - [systemctl, enable, --now, falplan-notices.service]
  - [loginctl, enable-linger, {user}]
"""


def cloud_config(access: str, orphan_after: float) -> str:
    """The user data of a machine. `access` is the control plane's public SSH key; `orphan_after` in seconds, of silence."""
    words = access.split()[:2]  # its comment tells where it was made
    return _CONFIG.format(
        user=USER,
        access=json.dumps(" ".join(words)),
        after=round(orphan_after),
        heard=f"{FOLDER}/{HEARD}",
        folder=FOLDER,
        notices=textwrap.indent(script(f"{FOLDER}/{NOTICE}"), " " * 6).rstrip(),
    )
