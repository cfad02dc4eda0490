-- What the gateway owns: requests with their payloads and results, idempotency keys, callers' keys.
-- Times are seconds since the epoch. Payloads have tables of their own, so that a change of state rewrites a short row.

create table requests (
    seq             integer primary key autoincrement,  -- order of acceptance
    request_id      text not null unique,
    endpoint        text not null,
    sub_path        text not null,              -- '' or '/sub/path', canonical
    query           text not null,
    headers         text not null,              -- JSON object: what goes to the runner
    priority        integer not null,           -- 0 normal, 1 low
    hint            text,
    no_retry        integer not null,           -- 1: the caller asked for no second attempt
    created_at      real not null,
    start_by        real,                       -- no attempt begins later; null: no limit
    status          text not null,              -- IN_QUEUE, IN_PROGRESS, COMPLETED
    attempts        integer not null default 0, -- begun so far
    attempt_token   text,                       -- of the attempt that may complete; null while none runs
    runners         text not null default '[]', -- JSON list of the runners tried, the last one last
    started_at      real,                       -- of the last attempt
    ended_at        real,
    expires_at      real,                       -- a finished request is forgotten after this
    status_code     integer,
    error           text,
    error_type      text,
    inference_time  real                        -- seconds
) strict;
create index requests_unfinished on requests (seq) where status <> 'COMPLETED';
create index requests_expiring on requests (expires_at) where status = 'COMPLETED';

create table request_bodies (
    seq   integer primary key references requests (seq) on delete cascade,
    body  blob not null
) strict;

create table results (
    seq      integer primary key references requests (seq) on delete cascade,
    headers  text not null,                     -- JSON object, lower-case names
    body     blob not null
) strict;

create table idempotency (
    caller      text not null,                  -- key id, '' for callers without one
    name        text not null,                  -- the Idempotency-Key header
    digest      text not null,                  -- of what was asked
    request_id  text not null,
    expires_at  real not null,
    primary key (caller, name)
) strict, without rowid;
create index idempotency_expiring on idempotency (expires_at);

create table keys (
    key_id       text primary key,
    secret_hash  blob not null,                 -- SHA-256 of a random 256-bit secret
    scope        text not null,                 -- API, ADMIN
    description  text not null,
    created_at   real not null,
    revoked_at   real
) strict;
