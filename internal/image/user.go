package image

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"hob/faas"
	"hob/internal/image/layer"
)

// maxAccountFile is the most that is read of etc/passwd or etc/group.
const maxAccountFile = 4 * faas.MB

// LookupUser says who "name", "uid", "name:group" or "uid:gid" is in this root
// filesystem, by its etc/passwd and etc/group, as Docker does: a number needs no
// entry; without a group it is the user's own (0 if there is no entry), and the
// supplementary groups are those that list the user. A name that is not there
// is Invalid.
//
// An answer is remembered with the image: asking again costs no look at the disk.
func (r *RootFS) LookupUser(user string) (uid, gid uint32, groups []uint32, err error) {
	if r.accounts == nil { // made by hand
		return r.lookupUser(user)
	}
	if a, ok := r.accounts.get(user); ok {
		return a.uid, a.gid, slices.Clone(a.groups), nil
	}
	uid, gid, groups, err = r.lookupUser(user)
	if err == nil {
		r.accounts.put(user, account{uid, gid, slices.Clone(groups)})
	}
	return uid, gid, groups, err
}

// account is an answer of LookupUser.
type account struct {
	uid, gid uint32
	groups   []uint32
}

// accounts are the users of one image that have been asked for; its files do
// not change. The zero value is ready.
type accounts struct {
	mu    sync.Mutex // guards known
	known map[string]account
}

// maxAccounts is how many users of one image are remembered.
const maxAccounts = 100

func (a *accounts) get(user string) (account, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	found, ok := a.known[user]
	return found, ok
}

func (a *accounts) put(user string, found account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = make(map[string]account)
	}
	if len(a.known) < maxAccounts {
		a.known[user] = found
	}
}

// lookupUser is LookupUser, from disk.
func (r *RootFS) lookupUser(user string) (uid, gid uint32, groups []uint32, err error) {
	name, group, grouped := strings.Cut(user, ":")
	if name == "" || grouped && group == "" {
		return 0, 0, nil, faas.Errorf(faas.Invalid, "bad user %q: write it as name, uid, or either with :group", user)
	}
	var found bool
	uid, found = number(name)
	numeric := found
	err = r.lines("etc/passwd", 4, func(f []string) bool {
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
	err = r.lines("etc/group", 3, func(f []string) bool {
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

// HasDir reports whether a process in this root filesystem finds a directory at
// path.
func (r *RootFS) HasDir(path string) bool {
	f, err := layer.Find(r.Layers, path)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, syscall.EISDIR)
}

// number reads the number of a user or group; the highest one is not one.
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n < 1<<32-1
}

// lines calls each with the fields of every line of a file that has enough
// of them, until it returns false. A file that is not there has no lines.
func (r *RootFS) lines(name string, fields int, each func(f []string) bool) error {
	f, err := layer.Find(r.Layers, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return faas.Errorf(faas.Invalid, "read /%s of the image: %w", name, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, int64(maxAccountFile)))
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
