package logs

import "path/filepath"

// DirOf is the directory of a store, for tests that look at its files.
func DirOf(s *Store) string { return filepath.Dir(s.dir) }
