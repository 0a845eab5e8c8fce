package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Erase removes what a call has written so far, and its events, from its function's
// log, for good when it returns nil; lines that come later stay. A reader at just that
// moment may find a line damaged.
func (s *Store) Erase(funcID, callID string) error {
	f, err := s.function(funcID)
	if err != nil {
		return err
	}
	f.flush()
	segments, _, err := f.series.state()
	for _, g := range segments {
		if err == nil && g.mayHave(callID) {
			err = f.series.erase(g, callOf(callID))
		}
	}
	if err != nil {
		return fmt.Errorf("erase the log of call %s: %w", callID, err)
	}
	return nil
}

// erase puts an entry of the same size that no reader shows in the place of each entry
// of a call. The time of the file stays, which is that of its last entry.
func (s *series) erase(g segment, call string) error {
	f, err := os.OpenFile(s.file(g.base), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has been dropped
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r, err := openFrames(f, g.size)
	erased := false
	for err == nil {
		off := r.off
		var fr frame
		if fr, err = r.next(); err != nil || fr.lost > 0 || fr.kind != kindLine && fr.kind != kindEvent {
			continue
		}
		if _, of, text, ok := parseLine(fr.rest); ok && string(of) == call {
			entry := appendEntry(nil, kindErased, time.Unix(0, fr.at), call, streamOther, make([]byte, len(text)))
			_, err = f.WriteAt(entry, off)
			erased = true
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if !erased {
		return nil
	}
	return errors.Join(f.Sync(), os.Chtimes(f.Name(), time.Time{}, info.ModTime()))
}
