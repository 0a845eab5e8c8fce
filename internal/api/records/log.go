package records

import (
	"context"
	"mime"
	"strings"

	"hob/faas"
	"hob/internal/logs"
)

// maxLog is how many bytes of a call's log are answered: what a Fn server keeps.
const maxLog = 1 << 20

// cutText ends a log that has more.
const cutText = "… the log of this call is longer: what is over the limit of 1 MB is not here\n"

// Log is what a call has written so far: whole lines from the first on, less than
// 1 MiB of them, and at the end a line that says so if there are more. Of a call that wrote nothing and failed it is the error: its sandbox
// ended before it had the call, with its last words.
func (b Book) Log(ctx context.Context, c faas.Call) (string, error) {
	var text strings.Builder
	for line, err := range b.Logs.Follow(ctx, logs.Selection{Function: c.FuncID, Call: c.ID, Tail: -1, Only: logs.Lines}) {
		if err != nil {
			return "", err
		}
		if text.Len()+len(line.Text)+len(cutText) >= maxLog {
			text.WriteString(cutText)
			break
		}
		text.WriteString(line.Text + "\n")
	}
	if text.Len() == 0 && c.Error != "" {
		return c.Error + "\n", nil
	}
	return text.String(), nil
}

// WantsText reports whether a log is wanted as text rather than as JSON, going by the
// values of the header Accept, and whether one of the two will do.
func WantsText(accept []string) (text, ok bool) {
	if len(accept) == 0 {
		return false, true
	}
	for item := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, _, _ := mime.ParseMediaType(item)
		switch kind {
		case "application/json", "*/*", "application/*":
			return false, true
		case "text/plain", "text/*":
			return true, true
		}
	}
	return false, false
}
