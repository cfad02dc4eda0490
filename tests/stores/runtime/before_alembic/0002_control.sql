-- What the controller owns: apps, their revisions, runners, rollouts, operations and events.
-- Times are seconds since the epoch. JSON columns hold objects written by falplan.core.values.canonical.

create table apps (
    endpoint     text primary key,   -- owner/name or owner/name--environment
    address      text not null,      -- app.<environment>.<name>
    revision     text,               -- what the alias points to; null before the first rollout is done
    inputs       text not null,      -- the inputs that were applied, as in the spec's resource
    settings     text not null,      -- runtime settings in force
    deleting     text,               -- the operation that removes the app, null otherwise
    failures     integer not null default 0,  -- failed starts in a row
    launch_after real not null default 0      -- end of the crash back-off
) strict;

create table revisions (
    endpoint    text not null,
    revision    text not null,
    definition  text not null,       -- everything that a runner needs, immutable
    created_at  real not null,
    primary key (endpoint, revision)
) strict;

create table runners (
    runner_id   text primary key,
    endpoint    text not null,
    revision    text not null,
    state       text not null,
    machine_id  text not null,
    placement   text not null,       -- machine type, vcpu, ram, gpus, and why it is there
    created_at  real not null,
    ready_at    real,
    ended_at    real,
    because     text not null default '',  -- why it was launched; once it ended, why it ended
    address     text not null default ''   -- where it listens, once ready
) strict;
create index runners_alive on runners (endpoint) where state <> 'TERMINATED';
create index runners_ended on runners (ended_at) where state = 'TERMINATED';

create table rollouts (
    endpoint    text primary key,    -- the newest rollout of each app
    revision    text not null,
    before      text,
    strategy    text not null,
    phase       text not null,
    operation   text not null,
    runner_id   text,
    because     text not null default '',
    inputs      text not null,       -- what the app's inputs and settings become when the alias moves
    settings    text not null
) strict;

create table operations (
    operation   text primary key,    -- derived from lineage, address and generation: repeating it returns the first outcome
    kind        text not null,
    body        text not null,
    body_digest text not null,
    status      text not null,       -- running, done, failed
    outcome     text not null default '{}',
    created_at  real not null,
    ended_at    real
) strict;
create index operations_open on operations (operation) where status = 'running';

create table events (
    seq      integer primary key autoincrement,
    at       real not null,
    kind     text not null,
    subject  text not null,
    message  text not null,
    detail   text not null default '{}'
) strict;
create index events_subject on events (subject, seq);

create table identity (
    name  text primary key,          -- control_plane_id, lineage, epoch
    value text not null
) strict;
