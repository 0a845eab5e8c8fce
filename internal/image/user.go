package image

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"hob/faas"
	"hob/internal/image/layer"
)

// maxAccounts is the most that is read of etc/passwd or etc/group.
const maxAccounts = 4 * faas.MB

// LookupUser says who "name", "uid", "name:group" or "uid:gid" is in this root
// filesystem, by its etc/passwd and etc/group, as Docker does: a number needs no
// entry; without a group it is the user's own (0 if there is no entry), and the
// supplementary groups are those that list the user. A name that is not there
// is Invalid.
func (r *RootFS) LookupUser(user string) (uid, gid uint32, groups []uint32, err error) {
	name, group, grouped := strings.Cut(user, ":")
	if name == "" || grouped && group == "" {
		return 0, 0, nil, faas.Errorf(faas.Invalid, "bad user %q: write it as name, uid, or either with :group", user)
	}
	var found bool
	uid, found = number(name)
	numeric := found
	err = r.accounts("etc/passwd", 4, func(f []string) bool {
		u, uok := number(f[2])
		g, gok := number(f[3])
		if !uok || !gok || f[0] != name && (!numeric || u != uid) {
			return true
		}
		name, uid, gid, found = f[0], u, g, true
		return false
	})
	if err != nil {
		return 0, 0, nil, err
	}
	if !found {
		return 0, 0, nil, faas.Errorf(faas.Invalid, "the image has no user %q in its /etc/passwd", name)
	}
	if grouped {
		gid, found = number(group)
		if found {
			return uid, gid, nil, nil
		}
	}
	err = r.accounts("etc/group", 3, func(f []string) bool {
		g, ok := number(f[2])
		switch {
		case !ok:
		case grouped && f[0] == group:
			gid, found = g, true
			return false
		case !grouped && len(f) > 3 && slices.Contains(strings.Split(f[3], ","), name):
			groups = append(groups, g)
		}
		return true
	})
	if err != nil {
		return 0, 0, nil, err
	}
	if !found {
		return 0, 0, nil, faas.Errorf(faas.Invalid, "the image has no group %q in its /etc/group", group)
	}
	return uid, gid, groups, nil
}

// number reads the number of a user or group; the highest one is not one.
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n < 1<<32-1
}

// accounts calls each with the fields of every line of a file that has enough
// of them, until it returns false. A file that is not there has no lines.
func (r *RootFS) accounts(name string, fields int, each func(f []string) bool) error {
	f, err := layer.Find(r.Layers, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return faas.Errorf(faas.Invalid, "read /%s of the image: %w", name, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, int64(maxAccounts)))
	lines.Buffer(nil, int(faas.MB))
	for lines.Scan() {
		if f := strings.Split(strings.TrimSpace(lines.Text()), ":"); len(f) >= fields && !each(f) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return faas.Errorf(faas.Invalid, "read /%s of the image: %w", name, err)
	}
	return nil
}
