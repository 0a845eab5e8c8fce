package protocol

// RuntimeAPI is where a function of format lambda finds the Runtime API of AWS
// Lambda, in its own network: the value of AWS_LAMBDA_RUNTIME_API.
const RuntimeAPI = "127.0.0.1:9001"
