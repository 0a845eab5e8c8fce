// Uses all that the kit has for functions behind a trigger.
const fdk = require('@fnproject/fdk')

let calls = 0

fdk.handle((input, ctx) => {
  calls++
  if (input.name === 'fail') throw new Error('no kettle')
  const web = ctx.httpGateway
  web.statusCode = 418
  web.setResponseHeader('X-Kettle', 'on')
  web.addResponseHeader('X-Cup', 'one')
  web.addResponseHeader('X-Cup', 'two')
  return {
    greeting: ctx.config.GREETING + ' ' + input.name,
    method: web.method,
    url: web.requestURL,
    tone: web.getHeader('X-Tone'),
    appID: ctx.appID,
    fnID: ctx.fnID,
    callID: ctx.callID,
    deadline: String(ctx.deadline),
    memory: Number(ctx.memory),
    call: calls
  }
})
