// Package sqlite is the store of one node: a single SQLite file beside its
// write-ahead log, in pure Go. It owns the schema, its migrations, and the way
// a change becomes durable; what a definition means is decided above it.
//
// README.md in this directory states the schema and its invariants.
package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	sqlite3 "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"hob/faas"
	"hob/internal/store"
)

var _ store.Store = (*Store)(nil)

// readers is the most connections that read definitions at once, and calls.
const readers = 4

// Store implements store.Store and store.Calls. Make one with Open.
type Store struct {
	path    string
	limits  store.Limits
	writers *sql.DB   // of one connection
	conn    *sql.Conn // the writer's; used by whoever has the turn
	readers *sql.DB
	stmt    statements
	closers []io.Closer // the statements of stmt
	feed    store.Feed

	pool        chan *db // connections that read calls; capacity readers
	bodies      bodies
	books       books
	clock       clock
	waiters     waiters
	fresh       fresh
	checkpoints checkpoints
	ended       chan struct{} // closed by Close

	turn chan struct{} // capacity 1; who put something in has the turn to write

	w        *db                // conn without database/sql; of whoever has the turn, as all below
	tx       tx                 // what follows the open transaction
	running  map[string]callRow // rows of calls that were taken, to save reading them again; by ID
	lastCall int64              // the greatest call.seq, as the others
	lastKept int64
	lastBook int64

	mu      sync.Mutex
	waiting []*write // guarded by mu, as all below; for the next turn, oldest first
	closed  bool
}

// statements are prepared once. Those that end in W belong to conn, as do all
// that change something; the others to readers.
type statements struct {
	app, apps, function, functions, functionsOf *sql.Stmt
	appByIDW, appByNameW                        *sql.Stmt
	functionByIDW, functionByNameW              *sql.Stmt
	putApp, deleteApp, putFunction              *sql.Stmt
}

// Open opens the database at path and brings its schema to the present version;
// it makes the file (mode 0600) if there is none, in a directory that exists. A
// file that is no database, is damaged, belongs to a newer hob or cannot be
// written is an error that names it and says what to do. Large bodies are files in
// a directory beside it, path + ".bodies". The Store owns a goroutine until it
// is closed.
func Open(ctx context.Context, path string, limits store.Limits) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	s := &Store{
		path: path, limits: limits, turn: make(chan struct{}, 1), pool: make(chan *db, readers), ended: make(chan struct{}),
		bodies: bodies{dir: path + ".bodies"}, running: make(map[string]callRow),
	}
	for range readers {
		s.pool <- dial(s.source("query_only(ON)"))
	}
	if err := s.open(ctx); err != nil {
		s.Close()
		return nil, s.explain(err)
	}
	return s, nil
}

// create makes an empty file if there is none, and sees to it that the file can
// be read and written by its owner alone.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	made := err == nil
	if errors.Is(err, fs.ErrExist) {
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	if !info.Mode().IsRegular() {
		return faas.Errorf(faas.Invalid, "open the database: %s is not a regular file", path)
	}
	if info.Mode().Perm() != 0o600 {
		if err := f.Chmod(0o600); err != nil {
			return fmt.Errorf("open the database: %w", err)
		}
	}
	if !made {
		return nil
	}
	dir, err := os.Open(filepath.Dir(path)) // the name of a new file is durable with its directory
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	return nil
}

// source is how the driver is told to open the database.
func (s *Store) source(pragmas ...string) string {
	u := url.URL{Scheme: "file", Path: s.path}
	u.RawQuery = url.Values{"_pragma": append([]string{"busy_timeout(5000)", "synchronous(FULL)", "foreign_keys(ON)"}, pragmas...)}.Encode()
	return u.String()
}

// open opens the connections of s and reads what it keeps in memory.
func (s *Store) open(ctx context.Context) (err error) {
	if s.writers, err = sql.Open("sqlite", s.source("journal_mode(WAL)", "wal_autocheckpoint(0)", "journal_size_limit(67108864)", "cache_size(-16000)")); err != nil {
		return err
	}
	s.writers.SetMaxOpenConns(1)
	if s.conn, err = s.writers.Conn(ctx); err != nil {
		return err
	}
	if err := migrate(ctx, s.conn, s.path); err != nil {
		return err
	}
	// The connection is nobody else's until Close, so it may be kept.
	if err := s.conn.Raw(func(conn any) error { s.w = lend(conn.(driver.Conn)); return nil }); err != nil {
		return err
	}
	if s.readers, err = sql.Open("sqlite", s.source("query_only(ON)")); err != nil {
		return err
	}
	s.readers.SetMaxOpenConns(readers)
	s.readers.SetMaxIdleConns(readers)
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.openCalls(); err != nil {
		return err
	}
	return s.makeDefaultApp(ctx)
}

// openCalls opens what only calls need.
func (s *Store) openCalls() error {
	if err := s.bodies.open(); err != nil {
		return err
	}
	if err := s.load(); err != nil {
		return err
	}
	if err := s.sweepBodies(); err != nil {
		return err
	}
	s.checkpoints.start(s)
	return nil
}

// read lends do a connection to read from.
func (s *Store) read(ctx context.Context, do func(*db) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	select {
	case d := <-s.pool:
		defer func() { s.pool <- d }()
		return s.explain(do(d))
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ended:
		return s.isClosed()
	}
}

// snapshot is read for several statements that must see the same state.
func (s *Store) snapshot(ctx context.Context, do func(*db) error) error {
	return s.read(ctx, func(d *db) error {
		if _, err := d.exec("BEGIN"); err != nil {
			return err
		}
		err := do(d)
		_, end := d.exec("COMMIT")
		return errors.Join(err, end)
	})
}

func (s *Store) prepare(ctx context.Context) error {
	const function = "SELECT " + functionColumns + " FROM function "
	for _, p := range []struct {
		stmt **sql.Stmt
		on   interface {
			PrepareContext(context.Context, string) (*sql.Stmt, error)
		}
		query string
	}{
		{&s.stmt.app, s.readers, "SELECT " + appColumns + " FROM app WHERE name = ?"},
		{&s.stmt.apps, s.readers, "SELECT " + appColumns + " FROM app ORDER BY name"},
		{&s.stmt.function, s.readers, function + "WHERE app = ? AND name = ?"},
		{&s.stmt.functions, s.readers, function + "JOIN app ON app.id = function.app ORDER BY app.name, function.name"},
		{&s.stmt.functionsOf, s.readers, function + "WHERE app = ? ORDER BY name"},

		{&s.stmt.appByIDW, s.conn, "SELECT " + appColumns + " FROM app WHERE id = ?"},
		{&s.stmt.appByNameW, s.conn, "SELECT " + appColumns + " FROM app WHERE name = ?"},
		{&s.stmt.functionByIDW, s.conn, function + "WHERE id = ?"},
		{&s.stmt.functionByNameW, s.conn, function + "WHERE app = ? AND name = ?"},
		{&s.stmt.putApp, s.conn, `INSERT INTO app (id, name, revision, created, updated, definition) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, updated = excluded.updated, definition = excluded.definition`},
		{&s.stmt.putFunction, s.conn, `INSERT INTO function (id, app, name, revision, created, updated, definition) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, updated = excluded.updated, definition = excluded.definition`},
		{&s.stmt.deleteApp, s.conn, "DELETE FROM app WHERE id = ?"},
	} {
		var err error
		if *p.stmt, err = p.on.PrepareContext(ctx, p.query); err != nil {
			return err
		}
		s.closers = append(s.closers, *p.stmt)
	}
	return nil
}

func (s *Store) makeDefaultApp(ctx context.Context) error {
	_, err := s.PutApp(ctx, faas.App{ID: faas.NewID(), Name: faas.DefaultApp}, store.IfNew)
	if faas.KindOf(err) == faas.Conflict {
		return nil // it is there
	}
	return err
}

// isClosed is the answer to a write that came too late.
func (s *Store) isClosed() error {
	return faas.Errorf(faas.Busy, "the database %s is closed: hob is shutting down", s.path)
}

// Close implements store.Store. Called again it does nothing.
func (s *Store) Close() error {
	s.turn <- struct{}{} // when it is ours no transaction runs
	defer func() { <-s.turn }()
	s.mu.Lock()
	late, again := s.waiting, s.closed
	s.waiting, s.closed = nil, true
	s.mu.Unlock()
	for _, w := range late {
		w.done <- s.isClosed()
	}
	if again {
		return nil
	}
	s.feed.Close()
	close(s.ended)
	var errs []error
	errs = append(errs, s.checkpoints.stop(), s.closeCalls())
	for _, stmt := range s.closers { // the engine keeps the file open for one that is left
		errs = append(errs, stmt.Close())
	}
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.writers != nil { // the last: it moves the log into the database
		errs = append(errs, s.writers.Close())
	}
	return s.explain(errors.Join(errs...))
}

// closeCalls closes what openCalls opened.
func (s *Store) closeCalls() error {
	var errs []error
	for range readers {
		d := <-s.pool // whoever reads puts it back
		errs = append(errs, d.close())
	}
	if s.w != nil {
		errs = append(errs, s.w.close())
	}
	return errors.Join(errs...)
}

// Watch implements store.Definitions.
func (s *Store) Watch(ctx context.Context) iter.Seq[store.Change] { return s.feed.Watch(ctx) }

// App implements store.Definitions.
func (s *Store) App(ctx context.Context, name string) (faas.App, error) {
	app, _, err := scanApp(s.stmt.app.QueryRowContext(ctx, name).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return faas.App{}, faas.Errorf(faas.NotFound, "no app %q", name)
	}
	return app, s.explain(err)
}

// Apps implements store.Definitions.
func (s *Store) Apps(ctx context.Context) ([]faas.App, error) {
	rows, err := s.stmt.apps.QueryContext(ctx)
	if err != nil {
		return nil, s.explain(err)
	}
	defer rows.Close()
	var all []faas.App
	for rows.Next() {
		app, _, err := scanApp(rows.Scan)
		if err != nil {
			return nil, s.explain(err)
		}
		all = append(all, app)
	}
	return all, s.explain(rows.Err())
}

// Function implements store.Definitions.
func (s *Store) Function(ctx context.Context, appID, name string) (faas.Function, error) {
	fn, _, err := scanFunction(s.stmt.function.QueryRowContext(ctx, appID, name).Scan, defaultJSON())
	if errors.Is(err, sql.ErrNoRows) {
		return faas.Function{}, faas.Errorf(faas.NotFound, "no function %q in the app with the ID %q", name, appID)
	}
	return fn, s.explain(err)
}

// Functions implements store.Definitions.
func (s *Store) Functions(ctx context.Context, appID string) ([]faas.Function, error) {
	var rows *sql.Rows
	var err error
	if appID == "" {
		rows, err = s.stmt.functions.QueryContext(ctx)
	} else {
		rows, err = s.stmt.functionsOf.QueryContext(ctx, appID)
	}
	if err != nil {
		return nil, s.explain(err)
	}
	defer rows.Close()
	var all []faas.Function
	defaults := defaultJSON()
	for rows.Next() {
		fn, _, err := scanFunction(rows.Scan, defaults)
		if err != nil {
			return nil, s.explain(err)
		}
		all = append(all, fn)
	}
	return all, s.explain(rows.Err())
}

// putApp is PutApp inside a transaction.
func (s *Store) putApp(ctx context.Context, app faas.App, ifRevision int64) (faas.App, error) {
	old, stored, err := one(scanApp(s.stmt.appByIDW.QueryRowContext(ctx, app.ID).Scan))
	if err != nil {
		return faas.App{}, err
	}
	namesake, _, err := one(scanApp(s.stmt.appByNameW.QueryRowContext(ctx, app.Name).Scan))
	if err != nil {
		return faas.App{}, err
	}
	if app, err = store.NextApp(app, ifRevision, old, namesake, time.Now()); err != nil {
		return faas.App{}, err
	}
	definition, err := merged(appJSON{
		Env: app.Env, MaxConcurrency: app.MaxConcurrency, Syslog: app.Syslog, Shape: app.Shape,
		Annotations: app.Annotations, Beside: app.Beside,
	}, stored)
	if err != nil {
		return faas.App{}, fmt.Errorf("write app %q: %w", app.Name, err)
	}
	_, err = s.stmt.putApp.ExecContext(ctx, app.ID, app.Name, app.Revision, app.Created.UnixMicro(), app.Updated.UnixMicro(), definition)
	return app, err
}

// deleteApp is DeleteApp inside a transaction.
func (s *Store) deleteApp(ctx context.Context, id string) ([]store.Change, error) {
	app, _, err := one(scanApp(s.stmt.appByIDW.QueryRowContext(ctx, id).Scan))
	switch {
	case err != nil:
		return nil, err
	case app == nil:
		return nil, faas.Errorf(faas.NotFound, "no app with the ID %q", id)
	case app.Name == faas.DefaultApp:
		return nil, store.KeepsDefaultApp()
	}
	var functions []string
	err = s.w.each("SELECT id FROM function WHERE app = ? ORDER BY name", func(r row) error {
		functions = append(functions, r.text(0))
		return nil
	}, id)
	if err != nil {
		return nil, err
	}
	var changes []store.Change
	for _, fn := range functions {
		dropped, err := s.dropFunction(fn)
		if err != nil {
			return nil, err
		}
		changes = append(changes, dropped...)
	}
	_, err = s.stmt.deleteApp.ExecContext(ctx, id)
	return append(changes, store.Change{Deleted: id}), err
}

// putFunction is PutFunction inside a transaction.
func (s *Store) putFunction(ctx context.Context, fn faas.Function, ifRevision int64) (faas.Function, error) {
	app, _, err := one(scanApp(s.stmt.appByIDW.QueryRowContext(ctx, fn.App).Scan))
	if err != nil {
		return faas.Function{}, err
	}
	old, stored, err := one(scanFunction(s.stmt.functionByIDW.QueryRowContext(ctx, fn.ID).Scan, defaultJSON()))
	if err != nil {
		return faas.Function{}, err
	}
	namesake, _, err := one(scanFunction(s.stmt.functionByNameW.QueryRowContext(ctx, fn.App, fn.Name).Scan, defaultJSON()))
	if err != nil {
		return faas.Function{}, err
	}
	if fn, err = store.NextFunction(fn, ifRevision, app, old, namesake, time.Now()); err != nil {
		return faas.Function{}, err
	}
	definition, err := merged(functionToJSON(fn), stored)
	if err != nil {
		return faas.Function{}, fmt.Errorf("write function %q: %w", fn.Name, err)
	}
	_, err = s.stmt.putFunction.ExecContext(ctx, fn.ID, fn.App, fn.Name, fn.Revision, fn.Created.UnixMicro(), fn.Updated.UnixMicro(), definition)
	return fn, err
}

// one turns "no row" into nil.
func one[T any](v T, definition string, err error) (*T, string, error) {
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, "", nil
	case err != nil:
		return nil, "", err
	}
	return &v, definition, nil
}

// errDamaged marks what was found in a row but cannot have been written by us.
var errDamaged = errors.New("the database is damaged")

// explain turns an error of the engine into one that names the file and says
// what to do. An error with a Kind, and the end of a context, stay as they are.
func (s *Store) explain(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*faas.Error](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	const restore = "stop hob, then move the file and those beside it (-wal, -shm) away to start anew, or restore a backup"
	if errors.Is(err, errDamaged) {
		return fmt.Errorf("database %s: %w; %s", s.path, err, restore)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return faas.Errorf(faas.Busy, "the disk of the database %s is full: make room, then try again: %w", s.path, err)
	}
	e, ok := errors.AsType[*sqlite3.Error](err)
	if !ok {
		return fmt.Errorf("database %s: %w", s.path, err)
	}
	switch code := e.Code(); {
	case code&0xff == lib.SQLITE_FULL, code == lib.SQLITE_IOERR_SHMSIZE:
		return faas.Errorf(faas.Busy, "the disk of the database %s is full: make room, then try again: %w", s.path, err)
	case code&0xff == lib.SQLITE_BUSY, code&0xff == lib.SQLITE_LOCKED:
		return faas.Errorf(faas.Busy, "the database %s is in use by another process: %w", s.path, err)
	case code&0xff == lib.SQLITE_NOTADB:
		return fmt.Errorf("the file %s is not a database, or is damaged (%w): %s", s.path, err, restore)
	case code&0xff == lib.SQLITE_CORRUPT:
		return fmt.Errorf("the database %s is damaged (%w): %s", s.path, err, restore)
	case code&0xff == lib.SQLITE_READONLY, code&0xff == lib.SQLITE_CANTOPEN, code&0xff == lib.SQLITE_PERM:
		return fmt.Errorf("the database %s cannot be opened for writing (%w): see that hob may write to the file, to those beside it (-wal, -shm) and to the directory", s.path, err)
	}
	return fmt.Errorf("database %s: %w", s.path, err)
}
