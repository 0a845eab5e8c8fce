package capacity

import (
	"strings"
	"sync"
	"testing"

	"hob/faas"
)

func TestNothingIsGivenTwice(t *testing.T) {
	node := New(faas.Resources{Memory: 100 * faas.MB, CPU: 1000})
	var wg sync.WaitGroup
	var mu sync.Mutex
	given := 0
	for range 50 {
		wg.Go(func() {
			if node.TryReserve(faas.Resources{Memory: 30 * faas.MB}) {
				mu.Lock()
				given++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if given != 3 || node.Free().Memory != 10*faas.MB {
		t.Errorf("%d reservations of 30 MB, %v left; want 3 and 10 MB", given, node.Free().Memory)
	}
	if node.TryReserve(faas.Resources{Memory: 11 * faas.MB}) {
		t.Error("11 MB reserved where 10 MB are left")
	}
	if node.TryReserve(faas.Resources{CPU: 1001}) {
		t.Error("1.001 processors reserved where 1 is there")
	}
	node.Release(faas.Resources{Memory: 30 * faas.MB})
	if !node.TryReserve(faas.Resources{Memory: 40 * faas.MB}) {
		t.Error("40 MB refused where 40 MB are left")
	}
}

func TestMemoryOfTheMachineIsRead(t *testing.T) {
	got, err := readTotal(strings.NewReader("MemFree:  12 kB\nMemTotal:        8048 kB\n"))
	if err != nil || got != 8048*faas.KB {
		t.Errorf("readTotal = %v, %v; want 8048 KB", got, err)
	}
	for _, bad := range []string{"", "MemTotal: many kB\n"} {
		if _, err := readTotal(strings.NewReader(bad)); err == nil {
			t.Errorf("readTotal of %q: no error", bad)
		}
	}
	if real, err := OfMachine(); err != nil || real < 16*faas.MB {
		t.Errorf("OfMachine = %v, %v", real, err)
	}
}
