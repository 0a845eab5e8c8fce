package logs

import (
	"reflect"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
)

// ended is a call of a function that took so long, and failed if kind says so.
func ended(function string, took time.Duration, kind faas.Kind) faas.Call {
	now := time.Now()
	return faas.Call{ID: faas.NewID(), FuncID: function, Queued: now.Add(-took), Finished: now, ErrKind: kind}
}

func TestRatesAreOfTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Store{journal: &journal{}}
		for n := range 20 { // two seconds of ten calls
			s.Record(ended("a", time.Duration(n+1)*time.Millisecond, faas.OK))
			if n < 5 {
				s.Record(ended("a", time.Hour, faas.FuncFailed))
			}
			time.Sleep(100 * time.Millisecond)
		}
		want := map[string]Rate{"a": {PerSecond: 2.5, Failed: 0.5, P50: 11 * time.Millisecond}}
		if got := s.Rates(); !reflect.DeepEqual(got, want) {
			t.Errorf("rates %v, want %v", got, want)
		}
		time.Sleep(9 * time.Second)
		want = map[string]Rate{"a": {PerSecond: 1, P50: 16 * time.Millisecond}}
		if got := s.Rates(); !reflect.DeepEqual(got, want) {
			t.Errorf("rates 9s later %v, want %v", got, want)
		}
		time.Sleep(2 * time.Second)
		if got := s.Rates(); len(got) != 0 {
			t.Errorf("rates after the calls have passed: %v", got)
		}
	})
}

func TestMetersOfQuietFunctionsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Store{journal: &journal{}}
		for n := range rateFunctions {
			s.Record(ended(strconv.Itoa(n), time.Second, faas.OK))
		}
		time.Sleep(2 * rateWindow * time.Second)
		s.Record(ended("new", time.Second, faas.OK))
		if got := len(s.journal.meters); got != 1 {
			t.Errorf("%d meters are kept, want 1", got)
		}
	})
}
