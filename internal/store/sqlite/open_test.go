package sqlite_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/sqlite"
	"hob/internal/store/storetest"
	"hob/internal/testenv"
)

func TestDatabaseOfVersionOneIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	execSQL(t, path, sqlite.Migrations()[0]+`
		PRAGMA application_id = 0x686f6264; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
		INSERT INTO app VALUES ('A', 'default', 1, 1, 1, '{"env":{"X":"1"}}');
		INSERT INTO function VALUES ('F', 'A', 'resize', 4, 1, 2, '{"image":"x:1","timeout":5000000000,"network":"host"}')`)
	s := open(t, path)
	fn, err := s.Function(t.Context(), "A", "resize")
	if err != nil || fn.Image != "x:1" || fn.Timeout != 5*time.Second || fn.Revision != 4 || fn.RetryDelay != faas.DefaultRetryDelay ||
		fn.Network != "host" || fn.Allow != nil || fn.Isolation != "" {
		t.Errorf("Function = %+v, %v", fn, err)
	}
	if _, err := s.PutTrigger(t.Context(), storetest.Trigger(fn, "web"), store.IfNew); err != nil {
		t.Error(err)
	}
	accept(t, s, acceptance(s, fn.ID, []byte("payload")))
	if got := take(t, s, 1, fn.ID); len(got) != 1 {
		t.Errorf("took %v", got)
	}
}

func TestReopenedStoreCountsOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	limits := store.Limits{ResultsPerFunction: 20 * faas.KB, QueuePerFunction: 10 * faas.KB}
	s := openWith(t, path, limits)
	kept := map[string]bool{}
	for i := range 12 {
		call := accept(t, s, acceptance(s, "f", make([]byte, 1<<10)))
		if err := s.Settle(t.Context(), success(s, take(t, s, 1, "f")[0], make([]byte, 3<<10))); err != nil {
			t.Fatal(err)
		}
		if i%4 == 3 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openWith(t, path, limits)
		}
		kept[call.ID] = true
	}
	n := 0
	for id := range kept {
		if call, err := s.Call(t.Context(), id); err != nil {
			t.Error(err)
		} else if call.Result == faas.ResultKept {
			n++
		}
	}
	if n != 4 {
		t.Errorf("%d results of 4 KB are kept, want 4 under a cap of 20 KB with what else they count for", n)
	}
	for range 3 {
		for range 3 {
			accept(t, s, acceptance(s, "f", make([]byte, 1<<10)))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openWith(t, path, limits)
	}
	take(t, s, 1, "f")
	accept(t, s, acceptance(s, "f", make([]byte, 1<<10)))
	_, _, err := s.Accept(t.Context(), acceptance(s, "f", make([]byte, 1)))
	if faas.KindOf(err) != faas.Busy || !strings.Contains(err.Error(), "10 KB") {
		t.Errorf("Accept over the cap = %v, want busy with the limit", err)
	}
	if got, err := s.Tally(t.Context(), "f"); err != nil || got != (store.Tally{Queued: 9, Running: 1, Succeeded: 12}) {
		t.Errorf("Tally = %+v, %v", got, err)
	}
}

func TestFilesThatNothingNamesAreSwept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	s := open(t, path)
	large := make([]byte, store.InMemory+1)
	call := accept(t, s, acceptance(s, "f", large))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new-123", faas.NewID()} {
		if err := os.WriteFile(filepath.Join(path+".bodies", name), large, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, path)
	if files, err := os.ReadDir(path + ".bodies"); err != nil || len(files) != 1 {
		t.Errorf("%v, %v; want the payload alone", files, err)
	}
	req, err := s.Request(t.Context(), call.ID)
	if err != nil {
		t.Fatal(err)
	}
	checkLarge(t, req.Body.(io.ReadCloser), large)
	if _, err := s.Cancel(t.Context(), call.ID, "enough"); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(path + ".bodies"); err != nil || len(files) != 0 {
		t.Errorf("%v, %v; want nothing after the end of its call", files, err)
	}
}

func TestFullDiskKeepsCallsAndPasses(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	for name, size := range map[string]int{"rows": 10 << 10, "files": store.InMemory + 1} {
		t.Run(name, func(t *testing.T) {
			path, ballast := filepath.Join(dir, name+".db"), filepath.Join(dir, "ballast")
			if err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600); err != nil { // the room that is made later: enough for all of the log
				t.Fatal(err)
			}
			s := open(t, path)
			payload := bytes.Repeat([]byte("x"), size)
			var calls []faas.Call
			var full error
			for range 1000 {
				body := s.NewBody()
				if _, full = body.Write(payload); full != nil {
					body.Discard() // its file did not fit
					break
				}
				a := acceptance(s, "f", nil)
				a.Body = body
				var call faas.Call
				if call, _, full = s.Accept(t.Context(), a); full != nil {
					if faas.KindOf(full) != faas.Busy || !strings.Contains(full.Error(), "full") {
						t.Fatalf("Accept on a full disk = %v, want busy", full)
					}
					break
				}
				calls = append(calls, call)
			}
			if full == nil || len(calls) < 2 {
				t.Fatalf("%d calls, then %v", len(calls), full)
			}
			_, _, err := s.Accept(t.Context(), acceptance(s, "f", make([]byte, store.InMemory)))
			if faas.KindOf(err) != faas.Busy {
				t.Errorf("Accept on a full disk = %v, want busy", err)
			}
			for _, call := range calls {
				if got, err := s.Call(t.Context(), call.ID); err != nil || got.State != faas.CallQueued {
					t.Errorf("accepted call: %v, %v", got.State, err)
				}
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			if n, err := s.CancelQueued(t.Context(), "f", "no room"); name == "files" && (err != nil || n != len(calls)) {
				t.Errorf("CancelQueued = %d, %v; want %d", n, err, len(calls))
			}
			if name == "files" {
				accept(t, s, acceptance(s, "f", payload))
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			s = open(t, path)
			accept(t, s, acceptance(s, "f", make([]byte, 10)))
			if err := errors.Join(s.Close(), os.RemoveAll(path), os.RemoveAll(path+"-wal"), os.RemoveAll(path+".bodies")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLongReasonIsCut(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "hob.db"))
	accept(t, s, acceptance(s, "f", nil))
	call := take(t, s, 1, "f")[0]
	call.State, call.Error, call.ErrKind = faas.CallFailed, strings.Repeat("ü", 20<<10), faas.FuncFailed
	if err := s.Settle(t.Context(), store.Settlement{Call: call}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Call(t.Context(), call.ID)
	if err != nil || got.Error != strings.Repeat("ü", 8<<10) {
		t.Errorf("the reason is %d bytes, %v; want 16 KB", len(got.Error), err)
	}
}

func TestSettleIsTriedAgainWithTheSameBodyWhenTheDiskWasFull(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "hob.db"))
	want := bytes.Repeat([]byte("result"), store.InMemory/2)
	for _, operation := range []string{"keep", "kept", "sync directory"} {
		call, _, err := s.Accept(t.Context(), acceptance(s, "f", nil))
		if err != nil {
			t.Fatal(err)
		}
		taken, _, err := s.Take(t.Context(), "me", []store.Lane{{Functions: []string{"f"}, Limit: 1}})
		if err != nil || len(taken) != 1 {
			t.Fatal(taken, err)
		}
		settled := store.Settlement{Call: taken[0], Result: &store.NewResult{Status: 200, Body: s.NewBody()}}
		settled.Call.State = faas.CallSucceeded
		if _, err := settled.Result.Body.Write(want); err != nil {
			t.Fatal(err)
		}
		full := 2
		s.FailFiles(func(o string) error {
			if o == operation && full > 0 {
				full--
				return syscall.ENOSPC
			}
			return nil
		})
		for range 2 {
			if err := s.Settle(t.Context(), settled); faas.KindOf(err) != faas.Busy {
				t.Fatalf("Settle on a full disk (%s) = %v, want busy", operation, err)
			}
		}
		if err := s.Settle(t.Context(), settled); err != nil {
			t.Fatalf("Settle when there is room again (%s) = %v", operation, err)
		}
		_, body, err := s.Result(t.Context(), call.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%s: the result came as %d other bytes of %d, %v", operation, len(got), len(want), err)
		}
		body.Close()
	}
}
