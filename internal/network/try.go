package network

import (
	"errors"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
)

// Try makes a Router and a slot with rules where there is nobody, and removes them: the
// error says what this machine's kernel does not do. It needs root.
func Try() error {
	node := -1
	err := visit(func(t *linux.Thread, home int) (err error) {
		t.Do(func() { node, err = linux.NewNetwork(home) })
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(node)
	policy, err := faas.ParseEgress(string(faas.NetworkAllow), []string{"example.com:443", "10.0.0.0/8:80", "[fd00::1]:53/udp"})
	if err != nil {
		return err
	}
	r, err := NewRouter(Config{Generation: "doctor", Ready: 1, Node: node})
	if err != nil {
		return err
	}
	s, err := r.newSlot() // and not the one that is made ready: nobody would say why it is not
	if err == nil {
		_, err = r.hand(s, policy, "doctor")
	}
	return errors.Join(err, r.Close())
}
