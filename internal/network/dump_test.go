package network

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhatSomebodyChangesMeanwhileIsListedAgain(t *testing.T) {
	looks := 0
	list := func(disturbed int, err error) func() ([]int, error) {
		looks = 0
		return func() ([]int, error) {
			if looks++; looks <= disturbed {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, err
		}
	}
	if got, err := whole(list(3, nil)); len(got) != 2 || err != nil || looks != 4 {
		t.Errorf("after three changes: %v, %v, %d looks; want two things after four", got, err, looks)
	}
	wrong := errors.New("wrong")
	if _, err := whole(list(0, wrong)); !errors.Is(err, wrong) || looks != 1 {
		t.Errorf("another error: %v, %d looks; want it at once", err, looks)
	}
	if _, err := whole(list(1<<20, nil)); !errors.Is(err, netlink.ErrDumpInterrupted) || looks != 100 {
		t.Errorf("while changes do not end: %v, %d looks; want the error after 100", err, looks)
	}
}
