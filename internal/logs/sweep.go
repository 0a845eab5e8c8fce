package logs

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"hob/faas"
)

// sweepEvery is how often old segments are looked for.
const sweepEvery = 5 * time.Minute

// sweepUntil is the part of Run that removes what is too old or too much.
func (s *Store) sweepUntil(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		s.sweep(ctx, time.Now())
		select {
		case <-tick.C:
		case <-s.tooBig:
		case <-ctx.Done():
			return
		}
	}
}

// segmentFile is a segment as the directory shows it.
type segmentFile struct {
	series   *series
	base     uint64
	size     int64
	modified time.Time // of its last entry
}

// sweep removes segments whose last entry is too old, and the oldest while a
// function, or all together, have too much. It goes by what the directories show
// and opens nothing.
func (s *Store) sweep(ctx context.Context, now time.Time) {
	functions, err := os.ReadDir(s.dir)
	if err != nil {
		s.config.Log.Warn("old logs cannot be looked for", "err", err)
		return
	}
	var all []segmentFile
	for _, e := range functions {
		if ctx.Err() != nil {
			return
		}
		f, err := s.function(e.Name())
		if err != nil {
			continue // not ours
		}
		files := segmentFiles(f.series)
		files = s.removeOld(files, s.config.MaxAge, now)
		files = s.removeOver(files, int64(s.config.PerFunction))
		if len(files) == 0 {
			_ = os.Remove(f.series.dir) // only if it is empty; a line makes it again
		}
		all = append(all, files...)
	}
	slices.SortFunc(all, func(a, b segmentFile) int { return a.modified.Compare(b.modified) })
	if total := sizeOf(all); total > int64(s.config.Total) {
		all = s.removeOver(all, int64(s.config.Total-s.config.Total/20)) // some room, so that the next line needs no sweep
	}
	s.used.Store(sizeOf(all))

	records := segmentFiles(s.journal.series)
	records = s.removeOld(records, s.config.JournalAge, now)
	s.removeOver(records, int64(max(s.config.JournalBytes, faas.Bytes(s.journal.series.segmentSize))))
}

// segmentFiles lists the segments of a series, the oldest first.
func segmentFiles(of *series) (files []segmentFile) {
	entries, err := os.ReadDir(of.dir)
	if err != nil {
		return nil // there is nothing, or nothing to be done about it
	}
	for _, e := range entries {
		base, ok := segmentBase(filepath.Base(e.Name()))
		info, err := e.Info()
		if ok && err == nil {
			files = append(files, segmentFile{series: of, base: base, size: info.Size(), modified: info.ModTime()})
		}
	}
	return files
}

func sizeOf(files []segmentFile) (all int64) {
	for _, f := range files {
		all += f.size
	}
	return all
}

// removeOld removes the files that are older than age and returns the others.
func (s *Store) removeOld(files []segmentFile, age time.Duration, now time.Time) []segmentFile {
	if age <= 0 {
		return files
	}
	return slices.DeleteFunc(files, func(f segmentFile) bool {
		return now.Sub(f.modified) > age && s.removed(f)
	})
}

// removeOver removes files from the front until the others have at most limit
// bytes, and returns those.
func (s *Store) removeOver(files []segmentFile, limit int64) []segmentFile {
	over := sizeOf(files) - limit
	return slices.DeleteFunc(files, func(f segmentFile) bool {
		if over <= 0 || !s.removed(f) {
			return false
		}
		over -= f.size
		return true
	})
}

// removed removes a file and reports whether that could be done.
func (s *Store) removed(f segmentFile) bool {
	if err := f.series.remove(f.base, f.size); err != nil {
		s.config.Log.Warn("old log segment cannot be removed", "err", err)
		return false
	}
	return true
}
