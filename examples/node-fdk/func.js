// Counts its calls: one container serves them all.
const fdk = require('@fnproject/fdk')

let calls = 0

fdk.handle((input, ctx) => {
  calls++
  return { hello: (input && input.name) || 'world', call: calls, function: ctx.fnName }
})
