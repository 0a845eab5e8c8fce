package logs_test

import (
	"slices"
	"testing"

	"hob/faas"
	"hob/internal/logs"
)

func TestFollowersEndWithTheNodeAndHaveAllThatWasWritten(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	write(t, s, "f", "c", "first\n")
	var got []string
	var ended error
	for line, err := range s.Follow(t.Context(), logs.Selection{Function: "f", Tail: -1, Follow: true}) {
		if ended = err; err != nil {
			break
		}
		if got = append(got, line.Text); line.Text == "first" {
			write(t, s, "f", "c", "last\n")
			s.EndFollowers()
			s.EndFollowers()
		}
	}
	if !slices.Equal(got, []string{"first", "last"}) || faas.KindOf(ended) != faas.Busy {
		t.Errorf("read %q, and then %v", got, ended)
	}
	if got := linesOf(t, s, "c"); len(got) != 2 {
		t.Errorf("who does not follow reads %q", got)
	}
}
