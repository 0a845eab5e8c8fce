package sqlite_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/memory"
	"hob/internal/store/sqlite"
	"hob/internal/store/storetest"
	"hob/internal/testenv"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("HOB_TEST_PUT_FOREVER"); path != "" {
		putForever(path)
		return
	}
	if path := os.Getenv("HOB_TEST_CALL_FOREVER"); path != "" {
		callForever(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	return openWith(t, path, store.Limits{})
}

func openWith(t *testing.T, path string, limits store.Limits) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openNew(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "hob.db")) }

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, openNew)
}

func openEngine(t *testing.T, limits store.Limits) storetest.Engine {
	return openWith(t, filepath.Join(t.TempDir(), "hob.db"), limits)
}

func TestContractOfCalls(t *testing.T) {
	t.Parallel()
	storetest.RunCalls(t, openEngine)
}

func TestAnswersLikeMemory(t *testing.T) {
	t.Parallel()
	storetest.Equal(t, openNew, func(*testing.T) store.Store { return memory.New() })
}

func TestAnswersLikeMemoryOfCalls(t *testing.T) {
	t.Parallel()
	storetest.EqualCalls(t, openEngine, func(_ *testing.T, limits store.Limits) storetest.Engine { return memory.New(limits) })
}

func TestReopenedStoreHoldsWhatItHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with space ? # % ü", "hob.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	app, err := s.App(t.Context(), faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	fn, err := s.PutFunction(t.Context(), storetest.Function(app, "resize"), store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	again, err := s.App(t.Context(), faas.DefaultApp)
	if err != nil || again.ID != app.ID {
		t.Errorf("default app = %v, %v; want the ID %s", again, err, app.ID)
	}
	if got, err := s.Function(t.Context(), app.ID, "resize"); err != nil || got.Revision != fn.Revision || !got.Created.Equal(fn.Created) {
		t.Errorf("Function = %+v, %v; want %+v", got, err, fn)
	}
}

func TestFilesAreForTheOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 4 {
		t.Fatalf("files %v, %v; want the database, its log, its index and its bodies", names, err)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(0o600)
		if info.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

func TestNewerDatabaseIsRefusedWithBothNumbers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	execSQL(t, path, "PRAGMA user_version = 41")
	_, err := sqlite.Open(t.Context(), path, store.Limits{})
	if err == nil || faas.KindOf(err) != faas.Unsupported || !strings.Contains(err.Error(), "schema version 41") ||
		!strings.Contains(err.Error(), "up to 2") || !strings.Contains(err.Error(), path) {
		t.Errorf("Open = %v; want unsupported with the file, 41 and 2", err)
	}
}

func TestForeignDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	execSQL(t, path, "CREATE TABLE song (title TEXT)")
	if _, err := sqlite.Open(t.Context(), path, store.Limits{}); faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), path) {
		t.Errorf("Open of somebody else's database = %v, want invalid", err)
	}
}

func TestDamagedDatabaseSaysWhatToDo(t *testing.T) {
	fill := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "hob.db")
		s := open(t, path)
		app, err := s.App(t.Context(), faas.DefaultApp)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			fn, err := s.PutFunction(t.Context(), storetest.Function(app, fmt.Sprint("fn", i)), store.IfNew)
			if err == nil {
				_, err = s.PutTrigger(t.Context(), storetest.Trigger(fn, "web"), store.IfNew)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// read opens the store and reads everything, as the daemon does at its start.
	read := func(path string) error {
		s, err := sqlite.Open(context.Background(), path, store.Limits{})
		if err != nil {
			return err
		}
		defer s.Close()
		_, errFunctions := s.Functions(context.Background(), "")
		_, errTriggers := s.Triggers(context.Background(), "")
		return cmp.Or(errFunctions, errTriggers)
	}
	overwrite := func(t *testing.T, path string, at int64, with []byte) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(with, at); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(t *testing.T, path string){
		"text":   func(t *testing.T, path string) { overwrite(t, path, 0, []byte("this is not a database at all")) },
		"header": func(t *testing.T, path string) { overwrite(t, path, 16, make([]byte, 84)) },
		"schema": func(t *testing.T, path string) { overwrite(t, path, 100, make([]byte, 3000)) },
		"pages":  func(t *testing.T, path string) { overwrite(t, path, 3*4096, []byte(strings.Repeat("\xff", 8*4096))) },
		"cut off": func(t *testing.T, path string) {
			if err := os.Truncate(path, 3*4096+17); err != nil {
				t.Fatal(err)
			}
		},
		"trigger": func(t *testing.T, path string) {
			execSQL(t, path, `UPDATE "trigger" SET definition = '[]' WHERE source = '/fn7/web'`)
		},
		"definition": func(t *testing.T, path string) {
			execSQL(t, path, `UPDATE function SET definition = '{"image":' WHERE name = 'fn7'`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := fill(t)
			damage(t, path)
			err := read(path)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore a backup") {
				t.Errorf("opening and reading = %v; want an error that names the file and says what to do", err)
			}
		})
	}
}

func TestUnusablePathIsNamed(t *testing.T) {
	dir := t.TempDir()
	if _, err := sqlite.Open(t.Context(), dir, store.Limits{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("Open of a directory = %v, want an error that names it", err)
	}
	path := filepath.Join(dir, "absent", "hob.db")
	if _, err := sqlite.Open(t.Context(), path, store.Limits{}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open in an absent directory = %v, want an error that names it", err)
	}
}

func TestFieldsOfANewerHobSurviveAChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	s := open(t, path)
	app, err := s.PutApp(t.Context(), storetest.App("photos"), store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	fn, err := s.PutFunction(t.Context(), storetest.Function(app, "resize"), store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	trigger, err := s.PutTrigger(t.Context(), storetest.Trigger(fn, "web"), store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"app", "function", "trigger"} {
		execSQL(t, path, fmt.Sprintf(`UPDATE %q SET definition = json_set(definition, '$.enclave', json('{"vm":true}'))`, table))
	}
	app.Shape, fn.Image, trigger.Annotations = "changed", "changed", map[string]string{"changed": "1"}
	_, errApp := s.PutApp(t.Context(), app, app.Revision)
	_, errFunction := s.PutFunction(t.Context(), fn, fn.Revision)
	_, errTrigger := s.PutTrigger(t.Context(), trigger, trigger.Revision)
	if err := errors.Join(errApp, errFunction, errTrigger); err != nil {
		t.Fatal(err)
	}
	for table, field := range map[string]string{"app": "shape", "function": "image", "trigger": "annotations"} {
		got := querySQL(t, path, fmt.Sprintf(`SELECT definition ->> '$.enclave' || ' ' || (definition ->> '$.%s') FROM %q WHERE revision = 2`, field, table))
		if !strings.HasPrefix(got, `{"vm":true} `) || !strings.Contains(got, "changed") {
			t.Errorf("stored of %s: %s, want what was there and what was changed", table, got)
		}
	}
}

func TestFieldsThatAnOlderHobDidNotWriteReadAsDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	s := open(t, path)
	app, err := s.App(t.Context(), faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutFunction(t.Context(), storetest.Function(app, "resize"), store.IfNew); err != nil {
		t.Fatal(err)
	}
	execSQL(t, path, `UPDATE function SET definition = json_set(json_remove(definition, '$.line', '$.idle'), '$.wait', 0)`)
	got, err := s.Function(t.Context(), app.ID, "resize")
	if err != nil || got.Line != faas.DefaultLine || got.Idle != faas.DefaultIdle || got.Wait != 0 {
		t.Errorf("line %d, idle %v, wait %v, %v; want the defaults of what is absent, and 0 for what is 0", got.Line, got.Idle, got.Wait, err)
	}
}

func TestFullDiskIsBusyAndPasses(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	path := filepath.Join(dir, "hob.db")
	s := open(t, path)
	app, err := s.App(t.Context(), faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 1<<20), 0o600) // as much as there is room for
	var full error
	put := 0
	for i := range 200 {
		if _, full = s.PutFunction(t.Context(), storetest.Function(app, fmt.Sprint("fn", i)), store.IfNew); full != nil {
			break
		}
		put++
	}
	if faas.KindOf(full) != faas.Busy || !strings.Contains(full.Error(), path) {
		t.Fatalf("PutFunction on a full disk = %v, want busy with the path", full)
	}
	if all, err := s.Functions(t.Context(), ""); err != nil || len(all) != put {
		t.Errorf("%d functions, %v; want the %d that were put", len(all), err, put)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutFunction(t.Context(), storetest.Function(app, "late"), store.IfNew); err != nil {
		t.Errorf("PutFunction when there is room again = %v", err)
	}
}

func TestWriteAfterCloseIsRefused(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "hob.db"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutApp(t.Context(), faas.App{ID: "x", Name: "x"}, store.IfNew); faas.KindOf(err) != faas.Busy {
		t.Errorf("PutApp = %v, want busy", err)
	}
}

func execSQL(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

func querySQL(t *testing.T, path, query string) (answer string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}
