-- Made from versions/ by `python -m tests.generated`: what a fresh database begins with.

CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE requests (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	request_id TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	sub_path TEXT NOT NULL, 
	"query" TEXT NOT NULL, 
	headers TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	hint TEXT, 
	no_retry INTEGER NOT NULL, 
	created_at REAL NOT NULL, 
	start_by REAL, 
	status TEXT NOT NULL, 
	attempts INTEGER DEFAULT 0 NOT NULL, 
	attempt_token TEXT, 
	runners TEXT DEFAULT '[]' NOT NULL, 
	started_at REAL, 
	ended_at REAL, 
	expires_at REAL, 
	status_code INTEGER, 
	error TEXT, 
	error_type TEXT, 
	inference_time REAL, 
	UNIQUE (request_id)
)
 STRICT

;
CREATE INDEX requests_unfinished ON requests (seq) WHERE status <> 'COMPLETED';
CREATE INDEX requests_expiring ON requests (expires_at) WHERE status = 'COMPLETED';
CREATE TABLE request_bodies (
	seq INTEGER NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (seq), 
	FOREIGN KEY(seq) REFERENCES requests (seq) ON DELETE CASCADE
)
 STRICT

;
CREATE TABLE results (
	seq INTEGER NOT NULL, 
	headers TEXT NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (seq), 
	FOREIGN KEY(seq) REFERENCES requests (seq) ON DELETE CASCADE
)
 STRICT

;
CREATE TABLE idempotency (
	caller TEXT NOT NULL, 
	name TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	request_id TEXT NOT NULL, 
	expires_at REAL NOT NULL, 
	PRIMARY KEY (caller, name)
)
 WITHOUT ROWID,
 STRICT

;
CREATE INDEX idempotency_expiring ON idempotency (expires_at);
CREATE TABLE keys (
	key_id TEXT NOT NULL, 
	secret_hash BLOB NOT NULL, 
	scope TEXT NOT NULL, 
	description TEXT NOT NULL, 
	created_at REAL NOT NULL, 
	revoked_at REAL, 
	PRIMARY KEY (key_id)
)
 STRICT

;
CREATE TABLE apps (
	endpoint TEXT NOT NULL, 
	address TEXT NOT NULL, 
	revision TEXT, 
	inputs TEXT NOT NULL, 
	settings TEXT NOT NULL, 
	deleting TEXT, 
	failures INTEGER DEFAULT 0 NOT NULL, 
	launch_after REAL DEFAULT 0 NOT NULL, overrides TEXT DEFAULT '{}' NOT NULL, 
	PRIMARY KEY (endpoint)
)
 STRICT

;
CREATE TABLE revisions (
	endpoint TEXT NOT NULL, 
	revision TEXT NOT NULL, 
	definition TEXT NOT NULL, 
	created_at REAL NOT NULL, inputs TEXT, served_at REAL, 
	PRIMARY KEY (endpoint, revision)
)
 STRICT

;
CREATE TABLE runners (
	runner_id TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	revision TEXT NOT NULL, 
	state TEXT NOT NULL, 
	machine_id TEXT NOT NULL, 
	placement TEXT NOT NULL, 
	created_at REAL NOT NULL, 
	ready_at REAL, 
	ended_at REAL, 
	because TEXT DEFAULT '' NOT NULL, 
	address TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (runner_id)
)
 STRICT

;
CREATE INDEX runners_alive ON runners (endpoint) WHERE state <> 'TERMINATED';
CREATE INDEX runners_ended ON runners (ended_at) WHERE state = 'TERMINATED';
CREATE TABLE rollouts (
	endpoint TEXT NOT NULL, 
	revision TEXT NOT NULL, 
	"before" TEXT, 
	strategy TEXT NOT NULL, 
	phase TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	runner_id TEXT, 
	because TEXT DEFAULT '' NOT NULL, 
	inputs TEXT NOT NULL, 
	settings TEXT NOT NULL, overrides TEXT DEFAULT '{}' NOT NULL, 
	PRIMARY KEY (endpoint)
)
 STRICT

;
CREATE TABLE operations (
	operation TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	body TEXT NOT NULL, 
	body_digest TEXT NOT NULL, 
	status TEXT NOT NULL, 
	outcome TEXT DEFAULT '{}' NOT NULL, 
	created_at REAL NOT NULL, 
	ended_at REAL, key_id TEXT DEFAULT '' NOT NULL, key_name TEXT DEFAULT '' NOT NULL, subject TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (operation)
)
 STRICT

;
CREATE INDEX operations_open ON operations (operation) WHERE status = 'running';
CREATE TABLE events (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at REAL NOT NULL, 
	kind TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	message TEXT NOT NULL, 
	detail TEXT DEFAULT '{}' NOT NULL
)
 STRICT

;
CREATE INDEX events_subject ON events (subject, seq);
CREATE TABLE identity (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
)
 STRICT

;
CREATE TABLE secrets (
	environment TEXT NOT NULL, 
	name TEXT NOT NULL, 
	version TEXT NOT NULL, 
	changed_at REAL NOT NULL, since REAL DEFAULT 0 NOT NULL, set_by TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (environment, name)
)
 STRICT

;
CREATE TABLE secret_versions (
	version TEXT NOT NULL, 
	environment TEXT NOT NULL, 
	name TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	nonce BLOB NOT NULL, 
	sealed BLOB NOT NULL, 
	created_at REAL NOT NULL, 
	PRIMARY KEY (version)
)
 STRICT

;
CREATE INDEX secret_versions_of ON secret_versions (environment, name);
CREATE INDEX operations_at ON operations (created_at);
CREATE TABLE machines (
	machine_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	life TEXT NOT NULL, 
	made_at REAL NOT NULL, 
	ended_at REAL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (machine_id)
)
 STRICT

;
CREATE INDEX machines_alive ON machines (region) WHERE life <> 'gone';
CREATE TABLE attempts (
	launch TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	region TEXT NOT NULL, 
	told_at REAL NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (launch, number)
)
 STRICT

;
CREATE INDEX attempts_told ON attempts (region, told_at);
insert into alembic_version values ('0005');
pragma user_version = 5;
pragma application_id = 1717660784;
