package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Variable is one that the server of Fn or IronFunctions, or an old document about
// it, knows.
type Variable struct {
	Name    string
	Setting string // that it is another name of; "": it has no effect
	Instead string // what does its work here, if Setting is empty; "": nothing need
	Text    string // how it is read, or why it has no effect

	// read turns its value into one of Setting, or says what to use in place of
	// the value; nil: the two are written alike.
	read func(c *Config, val string) (string, error)
	tell bool // Text is worth a note even if the variable is used
}

// unused is the note of a variable without effect.
func (v Variable) unused() string {
	note := v.Name + " is not used: " + v.Text
	if v.Instead != "" {
		note += " See " + strings.ReplaceAll(v.Instead, "`", "") + "."
	}
	return note
}

// Variables lists what hob knows of Fn's variables, in the order of Fn's documents.
func Variables() []Variable { return slices.Clone(fnVariables) }

// Notes returns a sentence for each variable of the environment that has no effect,
// or another one than in the server that it is of, and for a key that is short: the
// operator should see them at the start.
func (c Config) Notes() []string {
	notes := slices.Clone(c.notes)
	if n := len(c.JWTAuthKey); n > 0 && n < KeyLength {
		notes = append(notes, fmt.Sprintf("jwt-auth-key (from %s) has fewer than %d bytes: who sees a token can find such a key by trying", c.Origin("jwt-auth-key"), KeyLength))
	}
	return notes
}

// fnVariables is the one list of them; the reference page is made from it.
var fnVariables = []Variable{
	{Name: "FN_NODE_TYPE", Setting: "node-type", read: nodeType, Text: "`full` and `api`. `lb` and `pure-runner` are refused: there is no cluster yet."},
	{Name: "FN_PORT", Setting: "listen", read: port, Text: "The port. The address is that of `listen`, by default loopback; Fn listens on all. Off loopback, set `listen`, `insecure`, and in `hosts` the names that clients call the server by."},
	{Name: "FN_GRPC_PORT", Text: "only runners of a cluster have such a port."},
	{Name: "FN_DB_URL", Setting: "data", read: sqliteData, tell: true, Text: "the directory of an sqlite3:// URL is the data directory; a database of Fn in it is not read. Other databases are refused."},
	{Name: "FN_DS_DB_PING_MAX_RETRIES", Text: "the database is part of the process."},
	{Name: "FN_RUNNER_API_URL", Text: "there is no cluster yet: a node has its definitions itself."},
	{Name: "FN_RUNNER_ADDRESSES", Text: "there is no cluster yet: a node runs its functions itself."},
	{Name: "FN_PLACER", Text: "there is no cluster yet: a call runs on the node that it came to."},
	{Name: "FN_PUBLIC_LB_URL", Setting: "public-url"},
	{Name: "FN_LOG_FORMAT", Setting: "log-format"},
	{Name: "FN_LOG_LEVEL", Setting: "log-level", read: logLevel, Text: "`trace` is debug, `warning` is warn, `fatal` and `panic` are error."},
	{Name: "FN_LOG_DEST", Setting: "log-dest", read: logDest, Text: "Without a scheme it is udp, without a host localhost, without a port 514."},
	{Name: "FN_LOG_PREFIX", Setting: "log-prefix"},
	{Name: "FN_API_CORS_ORIGINS", Setting: "cors-origins", Text: "With commas."},
	{Name: "FN_API_CORS_HEADERS", Setting: "cors-headers", Text: "With commas."},
	{Name: "FN_ZIPKIN_URL", Text: "traces are not sent yet."},
	{Name: "FN_JAEGER_URL", Text: "traces are not sent yet."},
	{Name: "FN_RID_HEADER", Setting: "request-id-header"},
	{Name: "FN_PROCESS_COLLECTOR_LIST", Text: "no other processes take part."},
	{Name: "FN_MAX_REQUEST_SIZE", Setting: "max-request", read: size, Text: "Bytes."},
	{Name: "FN_MAX_REQUEST_HEADER_SIZE", Setting: "max-request-header", read: size, Text: "Bytes."},
	{Name: "FN_REQUEST_BODY_READ_TIMEOUT", Setting: "http-body-timeout", read: seconds, Text: "Seconds, or a duration."},
	{Name: "FN_REQUEST_HEADER_READ_TIMEOUT", Setting: "http-header-timeout", read: seconds, Text: "Seconds, or a duration."},
	{Name: "FN_RESPONSE_WRITE_TIMEOUT", Setting: "http-write-timeout", read: seconds, Text: "Seconds, or a duration."},
	{Name: "FN_HTTP_IDLE_TIMEOUT", Setting: "http-idle-timeout", read: seconds, Text: "Seconds, or a duration."},

	{Name: "FN_FREEZE_IDLE_MSECS", Setting: "freeze-after", read: msecs, Text: "Milliseconds; negative is never."},
	{Name: "FN_HOT_POLL_MSECS", Text: "nothing polls: a waiting call is told when there is room."},
	{Name: "FN_HOT_LAUNCHER_TIMEOUT_MSECS", Text: "a function that is not called has no queue."},
	{Name: "FN_HOT_PULL_TIMEOUT_MSECS", Setting: "pull-timeout", read: msecs, Text: "Milliseconds."},
	{Name: "FN_HOT_START_TIMEOUT_MSECS", Setting: "fn-start-timeout", read: msecs, Text: "Milliseconds."},
	{Name: "FN_EXECUTION_HEADROOM", Instead: "`hob update --async-timeout`", Text: "a detached call waits in the queue until there is room, and has the whole of its time then."},
	{Name: "FN_MAX_RESPONSE_SIZE", Setting: "max-response", read: size, Text: "Bytes."},
	{Name: "FN_MAX_HDR_RESPONSE_SIZE", Setting: "max-response-header", read: size, Text: "Bytes."},
	{Name: "FN_MAX_LOG_SIZE_BYTES", Setting: "log-per-function", read: logSize, Text: "Bytes; below 1 MB it is 1 MB. It bounds the newest lines that are kept of a function, not those of a call."},
	{Name: "FN_MAX_TOTAL_CPU_MCPUS", Setting: "cpus", read: millis, Text: "Thousandths of a processor; 0 is all."},
	{Name: "FN_MAX_TOTAL_MEMORY_BYTES", Setting: "memory", read: size, Text: "Bytes; 0 is 80 % of the machine."},
	{Name: "FN_MAX_FS_SIZE_MB", Setting: "fn-max-fs-size", read: megabytes, Text: "MB."},
	{Name: "FN_MAX_PIDS", Setting: "fn-max-pids"},
	{Name: "FN_MAX_OPEN_FILES", Setting: "fn-max-open-files"},
	{Name: "FN_MAX_LOCKED_MEMORY", Setting: "fn-max-locked-memory", read: size, Text: "Bytes."},
	{Name: "FN_MAX_PENDING_SIGNALS", Setting: "fn-max-pending-signals"},
	{Name: "FN_MAX_MESSAGE_QUEUE", Setting: "fn-max-message-queues", read: size, Text: "Bytes."},
	{Name: "FN_MAX_TMPFS_INODES", Setting: "fn-max-tmp-inodes"},
	{Name: "FN_DISABLE_READONLY_ROOTFS", Setting: "fn-writable-root"},
	{Name: "FN_DISABLE_UNPRIVILEGED_CONTAINERS", Setting: "fn-privileged", Text: "The user is that of the image; capabilities are dropped all the same. It needs `insecure`."},
	{Name: "FN_DISABLE_DEBUG_USER_LOGS", Instead: "`log-functions`", Text: "what functions write is in the log of the daemon only with it, and at level info."},
	{Name: "FN_ENABLE_NB_RESOURCE_TRACKER", Instead: "`max-waiting`", Text: "a call without room waits within its time, and so many may."},
	{Name: "FN_EXPERIMENTAL_PREFORK_POOL_SIZE", Setting: "blanks", read: blanks, Text: "0 is none."},
	{Name: "FN_EXPERIMENTAL_PREFORK_IMAGE", Text: "a sandbox made ahead of need has no image."},
	{Name: "FN_EXPERIMENTAL_PREFORK_CMD", Text: "a sandbox made ahead of need runs nothing."},
	{Name: "FN_EXPERIMENTAL_PREFORK_USE_ONCE", Text: "a sandbox made ahead of need is always used once."},
	{Name: "FN_EXPERIMENTAL_PREFORK_NETWORKS", Setting: "fn-networks", read: networks, Text: "As `FN_DOCKER_NETWORKS`, which wins: a sandbox made ahead of need gets its network with its function."},
	{Name: "FN_CONTAINER_LABEL_TAG", Setting: "label"},
	{Name: "FN_DOCKER_NETWORKS", Setting: "fn-networks", read: networks, Text: "With white space or commas. They are no Docker networks: what each is, `networks` has to say, as `NAME=open`."},
	{Name: "FN_DOCKER_LOAD_FILE", Setting: "load", read: oneItem, Text: "One file, which may hold several images."},
	{Name: "FN_DOCKER_AUTH", Setting: "registry-auth"},
	{Name: "FN_IMAGE_CLEAN_MAX_SIZE", Setting: "image-bytes", read: size, Text: "Bytes."},
	{Name: "FN_IMAGE_CLEAN_EXEMPT_TAGS", Setting: "image-keep", read: items, Text: "With white space."},
	{Name: "FN_IMAGE_ENABLE_VOLUME", Setting: "fn-image-volumes"},
	{Name: "FN_IOFS_TMPFS", Text: "the directory of the socket is always in memory, and the sandbox's own."},
	{Name: "FN_IOFS_OPTS", Text: "the directory of the socket is mounted by the driver."},
	{Name: "FN_IOFS_PATH", Text: "the directory of the socket is made by the driver."},
	{Name: "FN_IOFS_DOCKER_PATH", Text: "there is no Docker daemon that had to find it."},
	{Name: "DOCKER_HOST", Text: "no Docker daemon takes part: sandboxes are made by hob itself."},
	{Name: "DOCKER_API_VERSION", Text: "no Docker daemon takes part."},
	{Name: "DOCKER_TLS_VERIFY", Text: "no Docker daemon takes part."},
	{Name: "DOCKER_CERT_PATH", Text: "no Docker daemon takes part."},

	{Name: "FN_MQ_URL", Instead: "`queue-per-function`, `queue-total`", read: fnQueue, Text: "calls wait in the data directory, and survive a restart there. URLs of other programs are refused."},
	{Name: "FN_LOGSTORE_URL", Instead: "`log-per-function`, `log-total`", read: logstoreURL, Text: "logs are kept in the data directory. URLs of other programs are refused."},
	{Name: "FN_API_URL", Text: "a server of its own needs no other; command lines read it."},
	{Name: "FN_EJECT_IDLE_MSECS", Text: "an idle sandbox makes room as soon as another function needs it."},
	{Name: "FN_ASYNC_CHEW_POLL_MSECS", Text: "nothing polls: the queue knows when a call is due."},
	{Name: "FN_DISABLE_TINI", Text: "the first process of a sandbox is always hob's own."},
	{Name: "ZIPKIN_URL", Text: "traces are not sent yet."},
	{Name: "JAEGER_URL", Text: "traces are not sent yet."},

	{Name: "FN_REGISTRY", Text: "command lines read it, not the server."},
	{Name: "FN_CONTEXT", Text: "command lines read it, not the server."},
	{Name: "FN_TOKEN", Text: "command lines read it, not the server."},
	{Name: "FN_INVOKE_ENDPOINT_CACHE_TTL", Text: "command lines read it, not the server."},
}

// noteUnknown notes every FN_ variable that is not in the list, with the nearest
// one that is.
func (c *Config) noteUnknown(env environment) {
	known := make(map[string]bool)
	for _, v := range fnVariables {
		known[v.Name], known[v.Name+"_FILE"] = true, true
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !strings.HasPrefix(name, "FN_") || known[name] || env[name] == "" {
			continue
		}
		if near := nearest(strings.TrimSuffix(name, "_FILE")); near != "" {
			c.note("%s is not used: nothing knows it. Is it %s?", name, near)
		} else {
			c.note("%s is not used: nothing knows it", name)
		}
	}
}

// nearest returns the known name that is the fewest edits away from name, or ""
// if more than a third of it would have to change.
func nearest(name string) string {
	best, least := "", len(name)/3+1
	for _, v := range fnVariables {
		if d := edits(name, v.Name); d < least {
			best, least = v.Name, d
		}
	}
	return best
}

// edits counts the letters to be put in, left out or exchanged between two names.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
