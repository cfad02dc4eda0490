-- Secrets: which version is the newest of each, and the versions with their values, encrypted by a key that is not in this file.
-- Times are seconds since the epoch.

create table secrets (
    environment text not null,
    name        text not null,
    version     text not null,       -- the newest one
    changed_at  real not null,
    primary key (environment, name)
) strict, without rowid;

create table secret_versions (
    version     text primary key,    -- random: it tells nothing of the value
    environment text not null,
    name        text not null,
    key_id      text not null,       -- of the key that it is encrypted by
    nonce       blob not null,
    sealed      blob not null,       -- AES-256-GCM; environment, name and version are authenticated with it
    created_at  real not null
) strict;
create index secret_versions_of on secret_versions (environment, name);
