package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	sqlite3 "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// A db is one connection, spoken to without database/sql, which costs more than
// most statements on calls do. It has one user at a time. A statement is
// prepared when it is first used and kept.
type db struct {
	source     string      // to open conn with
	conn       driver.Conn // nil: not yet
	statements map[string]statement
	args       []driver.NamedValue // of the statement that is being bound
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// dial returns a connection that is opened when it is first used.
func dial(source string) *db { return &db{source: source, statements: make(map[string]statement)} }

func (d *db) close() error {
	var errs []error
	for _, stmt := range d.statements {
		errs = append(errs, stmt.Close())
	}
	clear(d.statements)
	if d.conn != nil {
		errs = append(errs, d.conn.Close())
	}
	return errors.Join(errs...)
}

// bind returns the statement of a query, and its arguments as the driver wants
// them: int, int64, string, []byte or nil.
func (d *db) bind(query string, args []any) (statement, []driver.NamedValue, error) {
	if d.conn == nil {
		conn, err := (&sqlite3.Driver{}).Open(d.source)
		if err != nil {
			return nil, nil, err
		}
		d.conn = conn
	}
	stmt, ok := d.statements[query]
	if !ok {
		prepared, err := d.conn.Prepare(query)
		if err != nil {
			return nil, nil, fmt.Errorf("%w in: %s", err, query)
		}
		stmt = prepared.(statement)
		d.statements[query] = stmt
	}
	d.args = d.args[:0]
	for i, arg := range args {
		if n, ok := arg.(int); ok {
			arg = int64(n)
		}
		d.args = append(d.args, driver.NamedValue{Ordinal: i + 1, Value: arg})
	}
	return stmt, d.args, nil
}

// exec runs a statement and returns how many rows it changed.
func (d *db) exec(query string, args ...any) (int64, error) {
	stmt, values, err := d.bind(query, args)
	if err != nil {
		return 0, err
	}
	result, err := stmt.ExecContext(context.Background(), values) // one that can end costs a goroutine
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// each calls do for each row of the answer; the row is good until do returns.
func (d *db) each(query string, do func(row) error, args ...any) error {
	stmt, values, err := d.bind(query, args)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(context.Background(), values)
	if err != nil {
		return err
	}
	r := make(row, len(rows.Columns()))
	for {
		if err = rows.Next(r); err != nil {
			break
		}
		if err = do(r); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, rows.Close())
}

// one returns the first row of the answer, or nil if it has none.
func (d *db) one(query string, args ...any) (first row, err error) {
	err = d.each(query, func(r row) error {
		if first == nil {
			first = append(row(nil), r...)
		}
		return nil
	}, args...)
	return first, err
}

// A row is one row of an answer. NULL reads as zero.
type row []driver.Value

func (r row) num(i int) int64 {
	n, _ := r[i].(int64)
	return n
}

func (r row) text(i int) string {
	s, _ := r[i].(string)
	return s
}

func (r row) bytes(i int) []byte {
	b, _ := r[i].([]byte)
	return b
}

// isDuplicate reports whether err says that a unique value is there already.
func isDuplicate(err error) bool {
	e, ok := errors.AsType[*sqlite3.Error](err)
	return ok && (e.Code() == lib.SQLITE_CONSTRAINT_UNIQUE || e.Code() == lib.SQLITE_CONSTRAINT_PRIMARYKEY)
}
