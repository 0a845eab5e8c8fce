package launch

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/protocol"
	"hob/internal/sandbox"
)

// taskRoot is where images made for AWS Lambda have the function.
const taskRoot = "/var/task"

// lambda adds to s what format lambda needs: where the Runtime API will be, and
// what AWS says of the container. The image may know better.
func lambda(s *sandbox.Spec, fn faas.Function, root *image.RootFS) {
	s.Listen = protocol.RuntimeAPI
	if s.Dir == "" && root.HasDir(taskRoot) {
		s.Dir = taskRoot
	}
	s.Env = slices.Concat([]string{"LAMBDA_TASK_ROOT=" + taskRoot, "LAMBDA_RUNTIME_DIR=/var/runtime", "TZ=:UTC"}, s.Env)
	if entrypoint, command := program(fn, root.Config); len(entrypoint) > 0 && len(command) > 0 {
		s.Env = append(s.Env, "_HANDLER="+command[0]) // an entrypoint is a runtime, which is told what to call
	}
}

// lambdaEnvironment is environment for a process of format lambda: what its
// development kits read lies under the configuration.
func lambdaEnvironment(s sandbox.Spec, app faas.App, fn faas.Function) []string {
	kind := "on-demand"
	if fn.Min > 0 {
		kind = "provisioned-concurrency"
	}
	return regional(environment(s, slices.Concat([]string{
		"AWS_LAMBDA_FUNCTION_NAME=" + fn.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.FormatInt(int64(fn.Memory/faas.MB), 10),
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + fn.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + s.ID,
		"AWS_LAMBDA_INITIALIZATION_TYPE=" + kind,
	}, hotEnvironment(app, fn), []string{"AWS_LAMBDA_RUNTIME_API=" + protocol.RuntimeAPI})))
}

// defaultRegion is one that every development kit of AWS knows: most want to be in
// some region before they do anything.
const defaultRegion = "us-east-1"

// regional adds the region under those of its two names that env lacks.
func regional(env []string) []string {
	names := []string{"AWS_REGION=", "AWS_DEFAULT_REGION="}
	region := defaultRegion
	for _, name := range slices.Backward(names) {
		if i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, name) }); i >= 0 {
			region = strings.TrimPrefix(env[i], name)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name) }) {
			env = append(env, name+region)
		}
	}
	return env
}
