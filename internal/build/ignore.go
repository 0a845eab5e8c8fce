package build

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"hob/faas"
)

// Ignore is a list of patterns for names that are left alone, the last one that
// fits deciding: "*.log" fits a name in any directory, "docs/*.md" the whole name,
// "/build" one at the top, "tmp/" only a directory, and "!keep.log" takes a name
// back in. What is below a directory that is left alone is left alone.
type Ignore []string

// MaxIgnore is the longest file that ReadIgnore reads, in lines.
const MaxIgnore = 1000

// ReadIgnore reads patterns, one a line, empty lines and those that begin with '#'
// left out. A file that is not there has none.
func ReadIgnore(file string) (Ignore, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || !info.Mode().IsRegular() {
		return nil, faas.Errorf(faas.Invalid, "%s is no regular file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "%w", err)
	}
	defer f.Close()
	var all Ignore
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if len(all) == MaxIgnore {
			return nil, faas.Errorf(faas.TooLarge, "%s holds more than the limit of %d patterns", file, MaxIgnore)
		}
		all = append(all, line)
	}
	if err := lines.Err(); err != nil {
		return nil, faas.Errorf(faas.Invalid, "read %s: %w", file, err)
	}
	return all, all.Check()
}

// Check reports a pattern that cannot be one, as Invalid.
func (ig Ignore) Check() error {
	for _, p := range ig {
		if _, err := path.Match(p, ""); err != nil {
			return faas.Errorf(faas.Invalid, "bad pattern %q", p)
		}
	}
	return nil
}

// Match reports whether the name, which has slashes and no first one, is left
// alone by itself; for those above it the caller asks.
func (ig Ignore) Match(name string, dir bool) bool {
	ignored := false
	for _, p := range ig {
		p, back := strings.CutPrefix(p, "!")
		p, onlyDir := strings.CutSuffix(p, "/")
		if onlyDir && !dir {
			continue
		}
		against := name
		if rest, top := strings.CutPrefix(p, "/"); top {
			p = rest
		} else if p = strings.TrimPrefix(p, "**/"); !strings.Contains(p, "/") {
			against = path.Base(name)
		}
		if ok, err := path.Match(p, against); err == nil && ok {
			ignored = !back
		}
	}
	return ignored
}
