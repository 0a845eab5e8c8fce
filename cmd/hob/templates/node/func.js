// A function: it serves many calls from one container, one at a time, as HTTP on
// the Unix socket that FN_LISTENER names.
'use strict';
const fs = require('fs');
const http = require('http');
const path = require('path');

// handle is the function: change it.
function handle(payload) {
  let name = 'World';
  try {
    name = JSON.parse(payload).name || name;
  } catch (err) {
    if (payload !== '') console.error('the payload is no JSON:', err.message); // goes to the log of the function
  }
  return { message: 'Hello ' + name };
}

const listener = process.env.FN_LISTENER || '';
if (!listener.startsWith('unix:')) {
  console.error('FN_LISTENER does not name a Unix socket');
  process.exit(1);
}
const socket = listener.slice('unix:'.length);
const early = path.join(path.dirname(socket), 'early.sock');

http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const answer = JSON.stringify(handle(Buffer.concat(parts).toString())) + '\n';
    response.writeHead(200, { 'Content-Type': 'application/json' });
    response.end(answer);
  });
}).listen(early, () => {
  // The socket appears under its name only when it can be used.
  fs.chmodSync(early, 0o666);
  fs.renameSync(early, socket);
});
