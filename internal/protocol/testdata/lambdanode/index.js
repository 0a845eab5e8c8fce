// A function for AWS Lambda: two handlers.
let call = 0

exports.handler = async (event, context) => {
  call++
  if (event.fail) throw new TypeError('no picture')
  return { call, event, id: context.awsRequestId, left: context.getRemainingTimeInMillis() > 0 }
}

exports.stream = awslambda.streamifyResponse(async (event, out) => {
  out = awslambda.HttpResponseStream.from(out, { statusCode: 201, headers: { 'X-A': 'b' } })
  out.write('first')
  out.write(' last')
  out.end()
})
