"""Machines that tests log in to: real sshds on this one."""
