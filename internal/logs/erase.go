package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"hob/faas"
)

// Erase removes what a call has written so far, and its events, from its function's
// log, for good when it returns nil; lines that come later stay. Gone tells of it, also
// if the call had written nothing. A reader at just that moment may find a line damaged.
func (s *Store) Erase(funcID, callID string) error {
	f, err := s.function(funcID)
	if err != nil {
		return err
	}
	f.flush()
	callID = callOf(callID)
	segments, _, err := f.series.state()
	marked := false // there is an erased entry
	for _, g := range segments {
		if err == nil && g.mayHave(callID) {
			var found bool
			found, err = f.series.erase(g, callID)
			marked = marked || found
		}
	}
	if err != nil {
		return fmt.Errorf("erase the log of call %s: %w", callID, err)
	}
	if !marked {
		f.add(time.Now(), kindErased, callID, streamOther, nil)
		f.flush()
	}
	return nil
}

// Gone reports whether the log of a call is not kept any more, rather than empty: it
// was erased and has no line since, or the call ended longer ago than Config.MaxAge.
// What had to make room for other calls is not told from what was never written.
func (s *Store) Gone(c *faas.Call) (bool, error) {
	if s.config.MaxAge > 0 && !c.Finished.IsZero() && time.Since(c.Finished) > s.config.MaxAge {
		return true, nil
	}
	f, err := s.function(c.FuncID)
	if err != nil {
		return false, err
	}
	f.flush()
	id := callOf(c.ID)
	segments, _, err := f.series.state()
	erased := false
	for _, g := range segments {
		if err != nil || !g.mayHave(id) {
			continue
		}
		var has, was bool
		if has, was, err = f.series.holds(g, id); has {
			return false, nil
		}
		erased = erased || was
	}
	if err != nil {
		return false, fmt.Errorf("look for the log of call %s: %w", c.ID, err)
	}
	return erased, nil
}

// holds reports whether there is a line of a call in a segment, and whether there was
// one that is erased.
func (s *series) holds(g segment, call string) (line, erased bool, err error) {
	f, err := s.open(g)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil // it has been dropped
	}
	if err != nil {
		return false, false, err
	}
	defer f.Close()
	r, err := openFrames(f, g.size)
	for err == nil {
		var fr frame
		if fr, err = r.next(); err != nil || fr.lost > 0 || fr.kind != kindLine && fr.kind != kindErased {
			continue
		}
		if _, of, _, ok := parseLine(fr.rest); ok && string(of) == call {
			if fr.kind == kindLine {
				return true, erased, nil
			}
			erased = true
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return false, erased, err
}

// erase puts an entry of the same size that no reader shows in the place of each entry
// of a call, and reports whether there is one. The time of the file stays, which is
// that of its last entry.
func (s *series) erase(g segment, call string) (found bool, err error) {
	f, err := os.OpenFile(s.file(g.base), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it has been dropped
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	r, err := openFrames(f, g.size)
	erased := false
	for err == nil {
		off := r.off
		var fr frame
		if fr, err = r.next(); err != nil || fr.lost > 0 || fr.kind == kindSeal {
			continue
		}
		_, of, text, ok := parseLine(fr.rest)
		switch {
		case !ok || string(of) != call:
		case fr.kind == kindErased:
			found = true
		case fr.kind == kindLine || fr.kind == kindEvent:
			entry := appendEntry(nil, kindErased, time.Unix(0, fr.at), call, streamOther, make([]byte, len(text)))
			_, err = f.WriteAt(entry, off)
			erased, found = true, true
		}
	}
	if !errors.Is(err, io.EOF) {
		return found, err
	}
	if !erased {
		return found, nil
	}
	return found, errors.Join(f.Sync(), os.Chtimes(f.Name(), time.Time{}, info.ModTime()))
}
