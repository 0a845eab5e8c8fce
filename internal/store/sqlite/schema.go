package sqlite

import (
	"encoding/json"
	"fmt"
	"time"

	"hob/faas"
)

// applicationID marks the file as ours: "hobd".
const applicationID = 0x686f6264

// migrations are the steps from an empty file to the present schema: step n
// makes version n+1 of version n. A step that has been released is never
// changed; a change of the schema is a new step at the end.
func migrations() []string {
	return []string{
		// 1: apps and functions. A column is what is asked for; the rest of a
		// definition is JSON, so that a new setting needs no step.
		`CREATE TABLE app (
			id         TEXT PRIMARY KEY,
			name       TEXT NOT NULL UNIQUE,
			revision   INTEGER NOT NULL,
			created    INTEGER NOT NULL, -- microseconds since 1970, as all times
			updated    INTEGER NOT NULL,
			definition TEXT NOT NULL
		) STRICT;
		CREATE TABLE function (
			id         TEXT PRIMARY KEY,
			app        TEXT NOT NULL REFERENCES app (id),
			name       TEXT NOT NULL,
			revision   INTEGER NOT NULL,
			created    INTEGER NOT NULL,
			updated    INTEGER NOT NULL,
			definition TEXT NOT NULL,
			UNIQUE (app, name)
		) STRICT;`,
		// 2: triggers and asynchronous calls. README.md says what each is for.
		`CREATE TABLE "trigger" (
			id         TEXT PRIMARY KEY,
			app        TEXT NOT NULL REFERENCES app (id),
			function   TEXT NOT NULL REFERENCES function (id),
			name       TEXT NOT NULL,
			type       TEXT NOT NULL,
			source     TEXT NOT NULL,
			revision   INTEGER NOT NULL,
			created    INTEGER NOT NULL,
			updated    INTEGER NOT NULL,
			definition TEXT NOT NULL,
			UNIQUE (function, name),
			UNIQUE (app, type, source)
		) STRICT;
		CREATE TABLE called (
			n        INTEGER PRIMARY KEY,
			function TEXT NOT NULL, -- ID; it may be gone
			app      TEXT NOT NULL, -- name
			name     TEXT NOT NULL,
			UNIQUE (function, app, name)
		) STRICT;
		CREATE TABLE call (
			seq      INTEGER PRIMARY KEY, -- in the order of acceptance
			id       TEXT NOT NULL UNIQUE,
			called   INTEGER NOT NULL, -- called.n
			state    INTEGER NOT NULL, -- 0 queued, 1 running, 2 succeeded, 3 failed, 4 timed out, 5 canceled
			priority INTEGER NOT NULL,
			due      INTEGER NOT NULL,
			attempt  INTEGER NOT NULL,
			queued   INTEGER NOT NULL, -- 0 is no time
			started  INTEGER NOT NULL,
			finished INTEGER NOT NULL, -- as whoever settled it says
			ended    INTEGER NOT NULL, -- by the clock of the engine
			owner    TEXT NOT NULL, -- of a call that runs
			payload  INTEGER, -- bytes; NULL: not kept any more
			keyed    INTEGER NOT NULL, -- 1: a key stands for it
			result   INTEGER NOT NULL, -- 0 none, 1 kept, 2 fetched, 3 rotated
			kept     INTEGER NOT NULL, -- kept.n; 0: nothing
			record   TEXT NOT NULL
		) STRICT;
		CREATE INDEX call_line ON call (called, priority, due, seq, payload) WHERE state = 0;
		CREATE INDEX call_list ON call (called, state, seq);
		CREATE INDEX call_over ON call (called, seq) WHERE state > 1 AND keyed = 0; -- those that may be swept for their number
		CREATE TABLE payload (
			call    INTEGER PRIMARY KEY, -- call.seq
			request TEXT NOT NULL,
			body    BLOB, -- NULL: it is empty, or a file
			file    TEXT
		) STRICT;
		CREATE INDEX payload_file ON payload (file) WHERE file IS NOT NULL;
		CREATE TABLE kept (
			n      INTEGER PRIMARY KEY, -- in the order in which the calls ended
			call   INTEGER NOT NULL, -- call.seq
			called INTEGER NOT NULL, -- call.called
			keyed  INTEGER NOT NULL, -- call.keyed
			weight INTEGER NOT NULL, -- store.ResultWeight
			status INTEGER, -- of the result; NULL: only the payload is kept
			header TEXT,
			body   BLOB, -- NULL: it is empty, or a file
			file   TEXT
		) STRICT;
		CREATE INDEX kept_age ON kept (keyed, n);
		CREATE INDEX kept_of ON kept (called, keyed, n, weight);
		CREATE INDEX kept_file ON kept (file) WHERE file IS NOT NULL;
		CREATE TABLE key (
			function TEXT NOT NULL,
			caller   TEXT NOT NULL,
			key      TEXT NOT NULL,
			hash     TEXT NOT NULL,
			call     INTEGER NOT NULL UNIQUE, -- call.seq
			made     INTEGER NOT NULL,
			PRIMARY KEY (function, caller, key)
		) STRICT, WITHOUT ROWID;
		CREATE INDEX key_made ON key (made);
		CREATE TABLE delivery (
			id     TEXT PRIMARY KEY,
			call   INTEGER NOT NULL, -- call.seq
			target TEXT NOT NULL,
			tries  INTEGER NOT NULL,
			since  INTEGER NOT NULL,
			due    INTEGER NOT NULL
		) STRICT;
		CREATE INDEX delivery_call ON delivery (call);
		CREATE INDEX delivery_due ON delivery (due);
		CREATE TABLE clock (newest INTEGER NOT NULL) STRICT; -- one row: the newest time that was written
		INSERT INTO clock VALUES (0);`,
	}
}

// migrate brings the database to the present version, each step in a
// transaction of its own. It refuses a file that is not ours and one whose
// version it does not know.
func migrate(d *db, path string) error {
	r, err := d.one("SELECT (SELECT * FROM pragma_application_id), (SELECT * FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)")
	if err != nil {
		return err
	}
	id, version, tables, steps := r.num(0), int(r.num(1)), r.num(2), migrations()
	switch {
	case tables > 0 && id != applicationID:
		return faas.Errorf(faas.Invalid, "%s is an SQLite database, but not one of hob: choose another data directory, or move the file away", path)
	case version > len(steps):
		return faas.Errorf(faas.Unsupported, "the database %s has schema version %d, and this hob knows versions up to %d: run the newer hob again, or restore a backup made before it", path, version, len(steps))
	}
	for ; version < len(steps); version++ {
		step := fmt.Sprintf("BEGIN IMMEDIATE; %s\nPRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT", steps[version], applicationID, version+1)
		if _, err := d.exec(step); err != nil {
			_, _ = d.exec("ROLLBACK") // nothing to roll back is no harm
			return fmt.Errorf("schema step %d: %w", version+1, err)
		}
	}
	return nil
}

// appJSON is the column definition of an app.
type appJSON struct {
	Env            map[string]string `json:"env"`
	MaxConcurrency int               `json:"max_concurrency"`
	Network        string            `json:"network"`
	Allow          []string          `json:"allow"`
	Syslog         string            `json:"syslog"`
	Shape          string            `json:"shape"`
	Annotations    map[string]string `json:"annotations"`
	Beside         map[string]string `json:"beside"`
}

func appToJSON(app faas.App) appJSON {
	return appJSON{
		Env: app.Env, MaxConcurrency: app.MaxConcurrency, Network: app.Network, Allow: app.Allow, Syslog: app.Syslog, Shape: app.Shape,
		Annotations: app.Annotations, Beside: app.Beside,
	}
}

func (j appJSON) app() faas.App {
	return faas.App{
		Env: j.Env, MaxConcurrency: j.MaxConcurrency, Network: j.Network, Allow: j.Allow, Syslog: j.Syslog, Shape: j.Shape,
		Annotations: j.Annotations, Beside: j.Beside,
	}
}

// triggerJSON is the column definition of a trigger.
type triggerJSON struct {
	Async       bool                `json:"async"`
	Header      map[string][]string `json:"header"`
	Key         string              `json:"key"`
	Convention  faas.Convention     `json:"convention"`
	Annotations map[string]string   `json:"annotations"`
}

// functionJSON is the column definition of a function. No field is left out
// when it is zero: what is absent was written before the field existed and
// reads as the default, which zero may not be.
type functionJSON struct {
	Image          string            `json:"image"`
	Digest         string            `json:"digest"`
	Format         faas.Format       `json:"format"`
	Entrypoint     []string          `json:"entrypoint"`
	Command        []string          `json:"command"`
	Env            map[string]string `json:"env"`
	Workdir        string            `json:"workdir"`
	User           string            `json:"user"`
	Writable       bool              `json:"writable"`
	Network        string            `json:"network"`
	Allow          []string          `json:"allow"`
	Isolation      faas.Isolation    `json:"isolation"`
	Devices        []string          `json:"devices"`
	Memory         faas.Bytes        `json:"memory"`
	CPU            faas.CPU          `json:"cpu"`
	TmpSize        faas.Bytes        `json:"tmp_size"`
	Timeout        time.Duration     `json:"timeout"` // nanoseconds, as all durations
	Wait           time.Duration     `json:"wait"`
	StartTimeout   time.Duration     `json:"start_timeout"`
	Idle           time.Duration     `json:"idle"`
	MaxConcurrency int               `json:"max_concurrency"`
	Line           int               `json:"line"`
	Port           int               `json:"port"`
	Concurrency    int               `json:"concurrency"`
	Min            int               `json:"min"`
	MaxCalls       int               `json:"max_calls"`
	Freeze         string            `json:"freeze"`
	AsyncTimeout   time.Duration     `json:"async_timeout"`
	Delay          time.Duration     `json:"delay"`
	Retries        int               `json:"retries"`
	RetryDelay     time.Duration     `json:"retry_delay"`
	RetryMax       time.Duration     `json:"retry_max"`
	OnSuccess      string            `json:"on_success"`
	OnFailure      string            `json:"on_failure"`
	OnNodeLoss     string            `json:"on_node_loss"`
	MaxResult      faas.Bytes        `json:"max_result"`
	LogPayload     bool              `json:"log_payload"`
	Profile        faas.Profile      `json:"profile"`
	Address        string            `json:"address"`
	Shape          string            `json:"shape"`
	Annotations    map[string]string `json:"annotations"`
	Beside         map[string]string `json:"beside"`
}

func functionToJSON(fn faas.Function) functionJSON {
	return functionJSON{
		Image: fn.Image, Digest: fn.Digest, Format: fn.Format,
		Entrypoint: fn.Entrypoint, Command: fn.Command, Env: fn.Env,
		Workdir: fn.Workdir, User: fn.User, Writable: fn.Writable,
		Network: fn.Network, Allow: fn.Allow, Isolation: fn.Isolation, Devices: fn.Devices,
		Memory: fn.Memory, CPU: fn.CPU, TmpSize: fn.TmpSize,
		Timeout: fn.Timeout, Wait: fn.Wait, StartTimeout: fn.StartTimeout, Idle: fn.Idle,
		MaxConcurrency: fn.MaxConcurrency, Line: fn.Line,
		Port: fn.Port, Concurrency: fn.Concurrency, Min: fn.Min, MaxCalls: fn.MaxCalls, Freeze: fn.Freeze,
		AsyncTimeout: fn.AsyncTimeout, Delay: fn.Delay, Retries: fn.Retries, RetryDelay: fn.RetryDelay, RetryMax: fn.RetryMax,
		OnSuccess: fn.OnSuccess, OnFailure: fn.OnFailure, OnNodeLoss: fn.OnNodeLoss, MaxResult: fn.MaxResult, LogPayload: fn.LogPayload,
		Profile: fn.Profile, Address: fn.Address, Shape: fn.Shape, Annotations: fn.Annotations, Beside: fn.Beside,
	}
}

func (j functionJSON) function() faas.Function {
	return faas.Function{
		Image: j.Image, Digest: j.Digest, Format: j.Format,
		Entrypoint: j.Entrypoint, Command: j.Command, Env: j.Env,
		Workdir: j.Workdir, User: j.User, Writable: j.Writable,
		Network: j.Network, Allow: j.Allow, Isolation: j.Isolation, Devices: j.Devices,
		Memory: j.Memory, CPU: j.CPU, TmpSize: j.TmpSize,
		Timeout: j.Timeout, Wait: j.Wait, StartTimeout: j.StartTimeout, Idle: j.Idle,
		MaxConcurrency: j.MaxConcurrency, Line: j.Line,
		Port: j.Port, Concurrency: j.Concurrency, Min: j.Min, MaxCalls: j.MaxCalls, Freeze: j.Freeze,
		AsyncTimeout: j.AsyncTimeout, Delay: j.Delay, Retries: j.Retries, RetryDelay: j.RetryDelay, RetryMax: j.RetryMax,
		OnSuccess: j.OnSuccess, OnFailure: j.OnFailure, OnNodeLoss: j.OnNodeLoss, MaxResult: j.MaxResult, LogPayload: j.LogPayload,
		Profile: j.Profile, Address: j.Address, Shape: j.Shape, Annotations: j.Annotations, Beside: j.Beside,
	}
}

// merged is the JSON of v with those fields of old that v does not know: they
// were written by a newer hob, to which the database may return.
func merged(v any, old string) (string, error) {
	b, err := json.Marshal(v)
	if err != nil || old == "" {
		return string(b), err
	}
	var kept, fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(old), &kept); err != nil {
		return "", err
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return "", err
	}
	known := len(fields)
	for name, value := range kept {
		if _, ok := fields[name]; !ok {
			fields[name] = value
		}
	}
	if len(fields) > known {
		b, err = json.Marshal(fields)
	}
	return string(b), err
}

// defaultJSON is what a function reads as where its JSON says nothing.
func defaultJSON() functionJSON { return functionToJSON(faas.Function{}.WithDefaults()) }

// damagedRow says that the JSON of a row cannot be read.
func damagedRow(what, name string, err error) error {
	return fmt.Errorf("%w: the definition of %s %q cannot be read: %w", errDamaged, what, name, err)
}

// damagedNumber says that a number in a row leads nowhere.
func damagedNumber(what string, n int64) error {
	return fmt.Errorf("%w: there is no %s %d", errDamaged, what, n)
}
