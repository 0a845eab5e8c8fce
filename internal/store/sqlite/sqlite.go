// Package sqlite is the store of one node: a single SQLite file beside its
// write-ahead log, in pure Go. It owns the schema, its migrations, and the way
// a change becomes durable; what a definition means is decided above it.
//
// README.md in this directory states the schema and its invariants.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	sqlite3 "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"hob/faas"
	"hob/internal/store"
)

var _ store.Store = (*Store)(nil)

// readers is the most connections that read at once.
const readers = 4

// Store implements store.Store and store.Calls. Make one with Open.
type Store struct {
	path   string
	limits store.Limits
	feed   store.Feed

	pool        chan *db // connections that read; capacity readers
	bodies      bodies
	books       books
	clock       clock
	waiters     waiters
	fresh       fresh
	checkpoints checkpoints
	ended       chan struct{} // closed by Close

	turn chan struct{} // capacity 1; who put something in has the turn to write

	w        *db                // the connection that writes; of whoever has the turn, as all below
	tx       tx                 // what follows the open transaction
	running  map[string]callRow // rows of calls that were taken, to save reading them again; by ID
	lastCall int64              // the greatest call.seq, as the others
	lastKept int64
	lastBook int64

	mu      sync.Mutex
	waiting []*write // guarded by mu, as all below; for the next turn, oldest first
	closed  bool
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
	s.w = dial(s.source("journal_mode(WAL)", "wal_autocheckpoint(0)", "journal_size_limit(67108864)", "cache_size(-16000)"))
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

// open brings the schema to the present version and reads what s keeps in memory.
func (s *Store) open(ctx context.Context) error {
	if err := migrate(s.w, s.path); err != nil {
		return err
	}
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
	return s.makeDefaultApp(ctx)
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
	errs = append(errs, s.checkpoints.stop())
	for range readers {
		d := <-s.pool // whoever reads puts it back
		errs = append(errs, d.close())
	}
	errs = append(errs, s.w.close()) // the last: it moves the log into the database
	return s.explain(errors.Join(errs...))
}

// Watch implements store.Definitions.
func (s *Store) Watch(ctx context.Context) iter.Seq[store.Change] { return s.feed.Watch(ctx) }

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
