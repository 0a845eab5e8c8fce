package daemon_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hob/internal/testenv"
)

// TestOraclesSDKCallsFunctions is the SDK for Node as its users have it, pointed at a node.
func TestOraclesSDKCallsFunctions(t *testing.T) {
	testenv.NeedTool(t, "node")
	testenv.NeedTool(t, "npm")
	n := startFn(t)
	fn := n.fn("f", "")
	dir := t.TempDir()
	script, err := os.ReadFile("testdata/oci/invoke.js")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "invoke.js"), script, 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(name string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "SERVER=http://"+n.addr, "FN="+fn)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	command("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "oci-functions@2.139.1", "oci-common@2.139.1")
	lines := strings.Split(strings.TrimSpace(command("node", "invoke.js")), "\n")
	wants := []struct {
		status     int
		code, says string
	}{
		{0, "", `"Opc-Request-Id":["mine"]`},
		{0, "", ""},
		{0, "", ""},
		{502, "FunctionInvokeExecutionFailed", "error receiving function response"},
		{404, "NotAuthorizedOrNotFound", "Fn not found"},
		{400, "InvalidParameter", "fn-invoke-type"},
		{413, "RequestEntityTooLarge", "limit of 6 MB"},
	}
	if len(lines) != len(wants) {
		t.Fatalf("the SDK says\n%s", strings.Join(lines, "\n"))
	}
	for i, want := range wants {
		var got struct {
			Status                    int
			Code, Message, Name, Body string
		}
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		if got.Status != want.status || got.Code != want.code || !strings.Contains(got.Body+got.Message, want.says) || got.Name == "" || want.says == "" && got.Body != "" {
			t.Errorf("%d: %s, want %v", i, lines[i], want)
		}
		if strings.Contains(got.Body, "Signature") {
			t.Errorf("the function has the signature: %s", got.Body)
		}
	}
}

func TestTraceHeadersPassThroughEveryDoor(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	for _, path := range []string{"/invoke/" + fn, "/20181201/functions/" + fn + "/actions/invoke", "/t/a/s", "/r/a/s"} {
		a := n.ask("POST", path, "headers", "X-B3-Traceid: 80f198ee56343ba864fe8b2a57d3eff7", "X-B3-Spanid: e457b5a2e4d86bd1", "X-B3-Parentspanid: 05e3ac9a4f6e3b90", "X-B3-Sampled: 1", "X-B3-Flags: 1")
		for _, want := range []string{`"X-B3-Traceid":["80f198ee56343ba864fe8b2a57d3eff7"]`, `"X-B3-Spanid":["e457b5a2e4d86bd1"]`, `"X-B3-Parentspanid":["05e3ac9a4f6e3b90"]`, `"X-B3-Sampled":["1"]`, `"X-B3-Flags":["1"]`} {
			if !strings.Contains(a.body, want) {
				t.Errorf("%s: %d, the function has not %s: %s", path, a.status, want, a.body)
			}
		}
	}
}
