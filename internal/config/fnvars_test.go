package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"hob/faas"
	"hob/internal/config"
	"hob/internal/image"
)

// value returns a setting as it is printed.
func value(t *testing.T, c config.Config, name string) string {
	t.Helper()
	for _, e := range c.Entries() {
		if e.Name == name {
			return e.Value
		}
	}
	t.Fatalf("no setting %q", name)
	return ""
}

// read is what each variable that has an effect makes of some values.
var read = map[string]map[string]string{
	"FN_NODE_TYPE":                       {"api": "api", "full": "full"},
	"FN_PORT":                            {"9000": "127.0.0.1:9000", "0": "127.0.0.1:0"},
	"FN_DB_URL":                          {"sqlite3:///srv/fn/fn.db": "/srv/fn", "sqlite3:///srv/fn.db?cache=shared": "/srv"},
	"FN_PUBLIC_LB_URL":                   {"http://lb:90": "http://lb:90"},
	"FN_LOG_FORMAT":                      {"json": "json"},
	"FN_LOG_LEVEL":                       {"DEBUG": "debug", "trace": "debug", "warning": "warn", "fatal": "error", "panic": "error", "info": "info"},
	"FN_LOG_DEST":                        {"stderr": "stderr", "file:///a/b": "file:///a/b", "host": "udp://host:514", "tcp://host:1": "tcp://host:1", "tcp://host": "tcp://host:514", "udp://[::1]": "udp://[::1]:514", ":99": "udp://localhost:99"},
	"FN_LOG_PREFIX":                      {"fn1": "fn1"},
	"FN_API_CORS_ORIGINS":                {"*": "*", "http://a,http://b": "http://a,http://b"},
	"FN_API_CORS_HEADERS":                {"X-A, X-B": "X-A,X-B"},
	"FN_RID_HEADER":                      {"X-Rid": "X-Rid"},
	"FN_MAX_REQUEST_SIZE":                {"0": "0", "1048576": "1m", "5": "5"},
	"FN_MAX_REQUEST_HEADER_SIZE":         {"1048576": "1m"},
	"FN_REQUEST_BODY_READ_TIMEOUT":       {"120": "2m", "2m5s": "2m5s", "0": "0s"},
	"FN_REQUEST_HEADER_READ_TIMEOUT":     {"5": "5s"},
	"FN_RESPONSE_WRITE_TIMEOUT":          {"7": "7s"},
	"FN_HTTP_IDLE_TIMEOUT":               {"9": "9s"},
	"FN_FREEZE_IDLE_MSECS":               {"50": "50ms", "0": "0s", "-1": "-1ms"},
	"FN_HOT_PULL_TIMEOUT_MSECS":          {"600000": "10m"},
	"FN_HOT_START_TIMEOUT_MSECS":         {"5000": "5s"},
	"FN_MAX_RESPONSE_SIZE":               {"1000": "1000"},
	"FN_MAX_HDR_RESPONSE_SIZE":           {"1024": "1k"},
	"FN_MAX_LOG_SIZE_BYTES":              {"1048576": "1m", "1000": "1m", "4194304": "4m"},
	"FN_MAX_TOTAL_CPU_MCPUS":             {"1500": "1.5", "0": "0"},
	"FN_MAX_TOTAL_MEMORY_BYTES":          {"1073741824": "1g", "0": "0"},
	"FN_MAX_FS_SIZE_MB":                  {"0": "0", "64": "64m"},
	"FN_MAX_PIDS":                        {"60": "60"},
	"FN_MAX_OPEN_FILES":                  {"400": "400"},
	"FN_MAX_LOCKED_MEMORY":               {"65536": "64k"},
	"FN_MAX_PENDING_SIGNALS":             {"6000": "6000"},
	"FN_MAX_MESSAGE_QUEUE":               {"819201": "819201"},
	"FN_MAX_TMPFS_INODES":                {"100": "100"},
	"FN_DISABLE_READONLY_ROOTFS":         {"true": "true", "0": "false"},
	"FN_DISABLE_UNPRIVILEGED_CONTAINERS": {"1": "true"},
	"FN_EXPERIMENTAL_PREFORK_POOL_SIZE":  {"2": "2", "0": "-1"},
	"FN_EXPERIMENTAL_PREFORK_NETWORKS":   {"front back": "front,back"},
	"FN_CONTAINER_LABEL_TAG":             {"mine": "mine"},
	"FN_DOCKER_NETWORKS":                 {"front \t back ": "front,back", "front,back": "front,back", "back": "back"},
	"FN_DOCKER_LOAD_FILE":                {"/a/images.tar": "/a/images.tar"},
	"FN_DOCKER_AUTH":                     {"/etc/auth.json": "/etc/auth.json", `{"auths":{}}`: "***"},
	"FN_IMAGE_CLEAN_MAX_SIZE":            {"1073741824": "1g", "0": "0"},
	"FN_IMAGE_CLEAN_EXEMPT_TAGS":         {"a:1 b/c \t d:latest ": "a:1,b/c,d:latest"},
	"FN_IMAGE_ENABLE_VOLUME":             {"true": "true"},

	"DB_URL":       {"bolt:///srv/iron/bolt.db?bucket=funcs": "/srv/iron"},
	"PORT":         {"9000": "127.0.0.1:9000"},
	"LOG_LEVEL":    {"DEBUG": "debug", "info": "info"},
	"JWT_AUTH_KEY": {"a key that has all of 32 bytes, yes": "***", "/and/one/that/could/be/the/name/of/a/file": "***"},
	"DOCKER_AUTH":  {`[{"name":"gcr.io","username":"u","password":"hush"}]`: "***", "/etc/auth.json": "/etc/auth.json", `{"auths":{}}`: "***"},
}

// variables are those of both servers.
func variables() []config.Variable { return slices.Concat(config.Variables(), config.IronVariables()) }

func TestVariableOfFnIsAnotherNameOfASetting(t *testing.T) {
	for _, v := range variables() {
		if (v.Setting != "") != (read[v.Name] != nil) {
			t.Errorf("%s means setting %q, and the test has the values %q", v.Name, v.Setting, read[v.Name])
		}
		for val, want := range read[v.Name] {
			c, _, err := load(t, "networks = front=open, back=allow 10.1.2.3:5432", map[string]string{v.Name: val})
			if err != nil {
				t.Errorf("%s=%s: %v", v.Name, val, err)
				continue
			}
			if got := value(t, c, v.Setting); got != want {
				t.Errorf("%s=%s makes %s %q, want %q", v.Name, val, v.Setting, got, want)
			}
			if got := c.Origin(v.Setting); got != "environment "+v.Name {
				t.Errorf("%s came from %q", v.Setting, got)
			}
			if err := c.Check(); err != nil && faas.KindOf(err) != faas.Denied {
				t.Errorf("%s=%s: %v", v.Name, val, err)
			}
			if notes := c.Notes(); len(notes) > 0 && v.Name != "FN_DB_URL" && v.Name != "DB_URL" {
				t.Errorf("%s=%s is used and has the notes %q", v.Name, val, notes)
			}
		}
	}
}

func TestOwnVariableWinsOverThatOfFnAndThatOverTheFile(t *testing.T) {
	c, _, err := load(t, "grace = 1s\nmax-request = 1m\npull-timeout = 1m\nblanks = 3\nlisten = [::1]:80",
		map[string]string{
			"FN_MAX_REQUEST_SIZE": "2097152", "HOB_MAX_REQUEST": "3m",
			"FN_HOT_PULL_TIMEOUT_MSECS": "120000",
			"FN_PORT":                   "81",
			"FN_LOG_LEVEL":              "trace", "HOB_LOG_LEVEL": "",
			"FN_EXPERIMENTAL_PREFORK_POOL_SIZE": "4",
			"FN_DOCKER_NETWORKS":                "wins", "FN_EXPERIMENTAL_PREFORK_NETWORKS": "loses",
		}, "--blanks=5")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"grace": "1s", "max-request": "3m", "pull-timeout": "2m", "blanks": "5", "listen": "[::1]:81", "log-level": "debug", "fn-networks": "wins",
	} {
		if got := value(t, c, name); got != want {
			t.Errorf("%s is %s (from %s), want %s", name, got, c.Origin(name), want)
		}
	}
}

func TestVariableWithoutPrefixIsBehindTheOthers(t *testing.T) {
	c, _, err := load(t, "log-level = warn\nlabel = x", map[string]string{
		"PORT": "81", "FN_PORT": "82",
		"DB_URL": "postgres://hush", "HOB_DATA": "/d", // that of another program, perhaps
		"JWT_AUTH_KEY": "theirs", "HOB_JWT_AUTH_KEY": "ours",
		"LOG_LEVEL": "debug",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:82" || c.Data != "/d" || c.JWTAuthKey != "ours" || c.LogLevel != "debug" {
		t.Errorf("listen %s, data %s, jwt-auth-key %s, log-level %s", c.Listen, c.Data, c.JWTAuthKey, c.LogLevel)
	}
}

func TestListOfCredentialsIsADockerConfiguration(t *testing.T) {
	c, _, err := load(t, "", map[string]string{"DOCKER_AUTH": ` [{"name":"registry.lan:5000","username":"u","password":"a:\"b"},{"username":"me","password":"p"}]`})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.Credentials(c.RegistryAuth)
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{"registry.lan:5000/a": `u a:"b`, "busybox": "me p", "gcr.io/a": " "} {
		named, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := keys.Resolve(named.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := auth.Authorization()
		if err != nil || got.Username+" "+got.Password != want {
			t.Errorf("%s: %v, %v; want %q", ref, got, err, want)
		}
	}
}

func TestKeyOfTokensIsNeverShown(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := load(t, "", map[string]string{"JWT_AUTH_KEY_FILE": key})
	if err != nil || c.JWTAuthKey != "hush" || value(t, c, "jwt-auth-key") != "***" || c.Origin("jwt-auth-key") != "environment JWT_AUTH_KEY_FILE" {
		t.Errorf("%v, jwt-auth-key %q shown as %q, from %s", err, c.JWTAuthKey, value(t, c, "jwt-auth-key"), c.Origin("jwt-auth-key"))
	}
	if notes := c.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "fewer than 32 bytes") || strings.Contains(notes[0], "hush") {
		t.Errorf("of a short key the notes are %q", notes)
	}
	var file strings.Builder
	if _, err := c.WriteTo(&file); err != nil || strings.Contains(file.String(), "hush") {
		t.Errorf("%v, the file tells the key", err)
	}
	c, _, err = load(t, file.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, "what stands in the place of a key", c.Check(), "jwt-auth-key", "put it in its place")
}

func TestKeyOfTokensOpensTheAddressToOthers(t *testing.T) {
	for key, want := range map[string]faas.Kind{"": faas.Denied, "short": faas.Denied, strings.Repeat("k", 32): ""} {
		c, _, err := load(t, "listen = :8080\njwt-auth-key = "+key, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); faas.KindOf(err) != want && (err != nil || want != "") {
			t.Errorf("with a key of %d bytes: %v, want kind %q", len(key), err, want)
		}
	}
}

func TestVariableMayStandInAFile(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c, _, err := load(t, "", map[string]string{
		"FN_PORT_FILE":             file("port", "9000\n"),
		"FN_DOCKER_AUTH_FILE":      file("auth", "{\"auths\":{},\n \"x\":\"hush\"}\r\n"),
		"FN_DOCKER_LOAD_FILE_FILE": file("load", "/a.tar"),
		"HOB_LABEL_FILE":           file("label", "mine\n"),
		"HOB_DOMAIN_FILE":          file("domain", ""),
		"FN_PLACER_FILE":           filepath.Join(dir, "is not read"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:9000" || c.RegistryAuth != "{\"auths\":{},\n \"x\":\"hush\"}" || c.Load[0] != "/a.tar" || c.Label != "mine" {
		t.Errorf("got listen %q, registry-auth %q, load %q, label %q", c.Listen, c.RegistryAuth, c.Load, c.Label)
	}
	if c.Origin("label") != "environment HOB_LABEL_FILE" || c.Origin("listen") != "environment FN_PORT_FILE" || c.Origin("domain") != "default" {
		t.Errorf("label came from %s, listen from %s, domain from %s", c.Origin("label"), c.Origin("listen"), c.Origin("domain"))
	}
	if notes := c.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "FN_PLACER") {
		t.Errorf("notes %q", notes)
	}
	conf := file("conf", "label = other")
	if c, err := config.Load(nil, []string{"HOB_CONFIG_FILE=" + file("where", conf+"\n")}); err != nil || c.Label != "other" {
		t.Errorf("label %q, %v", c.Label, err)
	}

	large := file("large", strings.Repeat("x", 1<<20+1))
	for _, c := range []struct {
		env  map[string]string
		want []string
	}{
		{map[string]string{"FN_PORT": "1", "FN_PORT_FILE": "/f"}, []string{"FN_PORT and FN_PORT_FILE", "one of them"}},
		{map[string]string{"HOB_DATA": "/d", "HOB_DATA_FILE": "/f"}, []string{"HOB_DATA and HOB_DATA_FILE"}},
		{map[string]string{"HOB_DATA_FILE": "/is/not/there"}, []string{"HOB_DATA_FILE", "/is/not/there"}},
		{map[string]string{"FN_PORT_FILE": dir}, []string{"FN_PORT_FILE", dir}},
		{map[string]string{"FN_DOCKER_AUTH_FILE": large}, []string{"FN_DOCKER_AUTH_FILE", large, "limit of 1 MB"}},
		{map[string]string{"FN_PORT_FILE": file("bad", "x")}, []string{"FN_PORT_FILE", `"x"`}},
		{map[string]string{"HOB_CONFIG": "/c", "HOB_CONFIG_FILE": "/f"}, []string{"HOB_CONFIG and"}},
	} {
		_, _, err := load(t, "", c.env)
		refused(t, fmt.Sprint(c.env), err, c.want...)
	}
}

// refused checks that err is Invalid and has all the words.
func refused(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if faas.KindOf(err) != faas.Invalid {
		t.Errorf("%s: got %v", what, err)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %q does not say %q", what, err, word)
		}
	}
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("%s: the error tells a secret: %v", what, err)
	}
}

func TestWhatFnsServerTakesAndHobCannotIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        []string
	}{
		{"FN_DB_URL", "mysql://root:hush@host/fn", []string{"mysql://", "sqlite3:///DIRECTORY/fn.db"}},
		{"FN_DB_URL", "postgres://root:hush@host/fn", []string{"Postgres", "sqlite3:///DIRECTORY/fn.db"}},
		{"FN_DB_URL", "bolt:///data/fn.db", []string{"bolt://", "data"}},
		{"FN_DB_URL", "root:hush@host", []string{"no scheme"}},
		{"FN_DB_URL", "sqlite3://:memory:", []string{"names no file"}},
		{"FN_DB_URL", "sqlite3:///fn.db", []string{"/DIRECTORY/"}},
		{"FN_DB_URL", "sqlite3:///srv/", []string{"names no file"}},
		{"FN_MQ_URL", "redis://:hush@host/", []string{"redis://", "queue-total"}},
		{"FN_MQ_URL", "bolt:///data/mq.db", []string{"bolt://", "leave the variable out"}},
		{"FN_LOGSTORE_URL", "s3://key:hush@host/region/bucket", []string{"s3://", "log-total"}},
		{"FN_LOGSTORE_URL", "mysql://root:hush@host/fn", []string{"mysql://", "syslog_url"}},
		{"FN_NODE_TYPE", "lb", []string{"cluster", "full"}},
		{"FN_NODE_TYPE", "pure-runner", []string{"cluster", "full"}},
		{"FN_PORT", "70000", []string{"65535"}},
		{"FN_PORT", "http", []string{`"http"`}},
		{"FN_MAX_REQUEST_SIZE", "1m", []string{"bytes", `"1m"`}},
		{"FN_MAX_LOG_SIZE_BYTES", "-1", []string{"bytes", `"-1"`}},
		{"FN_MAX_FS_SIZE_MB", "1.5", []string{"MB"}},
		{"FN_MAX_TOTAL_CPU_MCPUS", "half", []string{"thousandths"}},
		{"FN_FREEZE_IDLE_MSECS", "50ms", []string{"milliseconds"}},
		{"FN_HOT_PULL_TIMEOUT_MSECS", "-5", []string{"-5ms"}},
		{"FN_HTTP_IDLE_TIMEOUT", "-5", []string{"120", "2m5s"}},
		{"FN_MAX_PIDS", "many", []string{`"many"`}},
		{"FN_DISABLE_READONLY_ROOTFS", "perhaps", []string{"neither true nor false"}},
		{"FN_EXPERIMENTAL_PREFORK_POOL_SIZE", "-1", []string{"sandboxes"}},
		{"FN_IMAGE_CLEAN_EXEMPT_TAGS", "a,b", []string{"white space"}},
		{"FN_DOCKER_LOAD_FILE", "a,b", []string{"comma"}},
		{"DB_URL", "mysql://root:hush@host/funcs", []string{"mysql://", "bolt:///DIRECTORY/bolt.db"}},
		{"DB_URL", "postgres://root:hush@host/funcs", []string{"Postgres", "bolt:///DIRECTORY/bolt.db"}},
		{"DB_URL", "redis://:hush@host", []string{"redis://", "data"}},
		{"DB_URL", "sqlite3:///srv/fn.db", []string{"sqlite3://", "bolt:///DIRECTORY/bolt.db"}},
		{"DB_URL", "bolt:///bolt.db", []string{"/DIRECTORY/"}},
		{"MQ_URL", "redis://:hush@host/", []string{"redis://", "queue-total"}},
		{"MQ_URL", "ironmq://project:hush@mq.iron.io/queue", []string{"ironmq://", "leave the variable out"}},
		{"MQ_URL", "ironmq+http://project:hush@mq.iron.io/queue", []string{"ironmq+http://"}},
		{"PORT", "70000", []string{"65535"}},
		{"DOCKER_AUTH", "hush", []string{"JSON list"}},
		{"DOCKER_AUTH", `[{"name":"gcr.io","username":"u","password":["hush"]}]`, []string{"JSON list"}},
		{"DOCKER_AUTH", `[{"name":"gcr.io","password":"hush"}]`, []string{"entry 1", `"gcr.io"`, "username"}},
		{"DOCKER_AUTH", `[{"username":"u","password":"p"},{"name":"docker.io","username":"u","password":"hush"}]`, []string{"entry 2", `another one of "docker.io"`}},
	} {
		_, _, err := load(t, "", map[string]string{c.name: c.value})
		refused(t, c.name+"="+c.value, err, append(c.want, c.name)...)
	}
	_, _, err := load(t, "listen = nowhere", map[string]string{"FN_PORT": "1"})
	refused(t, "FN_PORT", err, "hob.conf:1", `"nowhere"`)
	c, _, err := load(t, "", map[string]string{"FN_HOT_START_TIMEOUT_MSECS": "0"})
	if err != nil {
		t.Fatal(err)
	}
	refused(t, "no time to start", c.Check(), "environment FN_HOT_START_TIMEOUT_MSECS")
	if c, _, err = load(t, "networks = back=open", map[string]string{"FN_DOCKER_NETWORKS": "back front"}); err != nil {
		t.Fatal(err)
	}
	refused(t, "a network that nobody defined", c.Check(), "environment FN_DOCKER_NETWORKS", `"front"`, "setting networks, as front=open")
}

func TestVariableWithoutEffectIsNoted(t *testing.T) {
	ignored := 0
	for _, v := range variables() {
		if v.Setting != "" {
			continue
		}
		ignored++
		val := "x"
		switch v.Name {
		case "FN_MQ_URL":
			val = "memory://"
		case "MQ_URL":
			val = "bolt:///data/worker_mq.db"
		case "FN_LOGSTORE_URL":
			val = "sqlite3:///a/b"
		}
		c, _, err := load(t, "", map[string]string{v.Name: val})
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if notes := c.Notes(); len(notes) != 1 || !strings.HasPrefix(notes[0], v.Name+" is not used: ") {
			t.Errorf("%s: notes %q", v.Name, notes)
		}
		if v.Text == "" || strings.ToLower(v.Text[:1]) != v.Text[:1] && !strings.HasPrefix(v.Text, "Docker") {
			t.Errorf("%s: %q does not go on with a sentence", v.Name, v.Text)
		}
	}
	if ignored == 0 {
		t.Error("no variable is without effect")
	}
	for name, want := range map[string]string{
		"FN_MAX_PID":              "Is it FN_MAX_PIDS?",
		"FN_DB_URI":               "Is it FN_DB_URL?",
		"FN_PROT_FILE":            "Is it FN_PORT?",
		"FN_SOMETHING_ALTOGETHER": "FN_SOMETHING_ALTOGETHER is not used: nothing knows it",
	} {
		c, _, err := load(t, "", map[string]string{name: "1"})
		if notes := c.Notes(); err != nil || len(notes) != 1 || !strings.HasSuffix(notes[0], want) {
			t.Errorf("%s: %v, notes %q", name, err, notes)
		}
	}
	c, _, err := load(t, "", map[string]string{"FN_NEW": "", "PATH": "/bin", "FN_PORT": "1", "HOB_SERVER": "x", "FN_PLACER": ""})
	if notes := c.Notes(); err != nil || len(notes) != 0 {
		t.Errorf("%v, notes %q", err, notes)
	}
	if c, _, _ = load(t, "", map[string]string{"FN_DB_URL": "sqlite3:///a/fn.db"}); len(c.Notes()) != 1 || !strings.Contains(c.Notes()[0], "not read") {
		t.Errorf("notes %q", c.Notes())
	}
}

func FuzzVariable(f *testing.F) {
	for _, v := range variables() {
		for val := range read[v.Name] {
			f.Add(v.Name, val)
		}
	}
	f.Add("FN_DB_URL", "sqlite3://")
	f.Add("FN_LOG_DEST", "[::1")
	f.Add("FN_\xff", "\x00")
	f.Fuzz(func(t *testing.T, name, val string) {
		c, err := config.Load(nil, []string{"HOB_CONFIG=/dev/null", name + "=" + val})
		if err != nil {
			if faas.KindOf(err) != faas.Invalid {
				t.Errorf("kind %q: %v", faas.KindOf(err), err)
			}
			return
		}
		c.Check()
		c.Entries()
	})
}
