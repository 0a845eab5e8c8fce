package memory_test

import (
	"testing"

	"hob/internal/store"
	"hob/internal/store/memory"
	"hob/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s := memory.New()
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestContractOfCalls(t *testing.T) { storetest.RunCalls(t, open) }

// Whatever the time between two calls: the comparison itself is sound.
func TestCallsAnswerLikeThemselves(t *testing.T) { storetest.EqualCalls(t, open, open) }

func open(t *testing.T, limits store.Limits) storetest.Engine {
	s := memory.New(limits)
	t.Cleanup(func() { s.Close() })
	return s
}
