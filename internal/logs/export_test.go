package logs

import "path/filepath"

// DirOf is the directory of a store, for tests that look at its files.
func DirOf(s *Store) string { return filepath.Dir(s.dir) }

// Destinations is how many syslog servers a store has lines or connections for.
func Destinations(s *Store) int {
	s.syslog.mu.Lock()
	defer s.syslog.mu.Unlock()
	return len(s.syslog.destinations)
}
