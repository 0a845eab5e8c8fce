package config

import "slices"

// IronVariables lists the variables of IronFunctions' server, in the order of its
// documents; those of its Docker client are among Variables. Names without a prefix
// may be meant for other programs: one is looked at only if neither HOB_… nor FN_… has
// its setting.
func IronVariables() []Variable { return slices.Clone(ironVariables) }

var ironVariables = []Variable{
	{Name: "DB_URL", Setting: "data", read: boltData, tell: true, Text: "the directory of a bolt:// URL is the data directory; a database of IronFunctions in it is not read. Other databases are refused."},
	{Name: "MQ_URL", Instead: "`queue-per-function`, `queue-total`", read: ironQueue, Text: "calls wait in the data directory, and survive a restart there. URLs of other programs (`redis://`, `ironmq://`) are refused."},
	{Name: "API_URL", Text: "the node takes its queued calls itself; a runner of your own asks the address of the node for /tasks."},
	{Name: "PORT", Setting: "listen", read: port, Text: "The port. The address is that of `listen`, by default loopback; IronFunctions listens on all."},
	{Name: "LOG_LEVEL", Setting: "log-level", read: logLevel, Text: "`trace` is debug, `warning` is warn, `fatal` and `panic` are error."},
	{Name: "JWT_AUTH_KEY", Setting: "jwt-auth-key", Text: "The same value. It locks all that manages the node, not `/v1` alone."},
	{Name: "DOCKER_AUTH", Setting: "registry-auth", read: dockerAuth, Text: "A JSON list of {name, username, password}, where no name is Docker Hub; or what `registry-auth` takes."},
}
