package oci

import (
	"testing"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/testenv"
)

// TestGenerationsHaveUsersOfTheirOwn has two daemons take users for some sandboxes.
func TestGenerationsHaveUsersOfTheirOwn(t *testing.T) {
	runc := testenv.NeedTool(t, "runc")
	whose := make(map[int]string)
	for _, generation := range []string{"ldmdhbj1", "ldmdhbj2"} {
		d := open(t, runc, func(c *Config) { c.Generation = generation })
		testenv.SkipUnless(t, d.caps.UserNamespaces, "needs user namespaces with mapped owners", "Linux 5.19 or newer")
		var first int
		for i := range 3 {
			u, err := d.takeUsers()
			if err != nil {
				t.Fatal(err)
			}
			defer d.leaveUsers(u)
			if whose[u.base] != "" || u.base < d.kind.users || u.base+sandbox.IDs >= d.kind.users+usersRoom {
				t.Errorf("%s has the users from %d on, which %q has; those of %s begin at %d", generation, u.base, whose[u.base], d.kind.name, d.kind.users)
			}
			whose[u.base] = generation
			if i == 0 {
				first = u.number
			}
		}
		d.leaveUsers(users{number: first, namespace: -1})
		if u, err := d.takeUsers(); u.number != first || err != nil {
			t.Errorf("users %d, %v; want %d, which nobody has any more", u.number, err, first)
		} else {
			d.leaveUsers(users{namespace: u.namespace}) // its number is given back in the end
		}
		d.lastUsers = userRanges
		if u, err := d.takeUsers(); faas.KindOf(err) != faas.Busy {
			t.Errorf("when all are taken: users %d, %v; want Busy", u.number, err)
		}
	}
}
