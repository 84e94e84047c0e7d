// Serves the mixed requests of tests/e2e/test_jobs.py on the port of its first argument.
//
// Each path is /NUMBER/SIZE, with the options ?chunked and ?close. GET is answered with SIZE bytes, HEAD with the head of
// that response, and POST with "LENGTH SHA-256" of the request's body. x-number repeats NUMBER, x-sha256 is of the body.
const { createHash, randomBytes } = require('node:crypto')
const { createServer } = require('node:http')

const MIB = 1024 * 1024
const pool = randomBytes(2 * MIB) // a body begins at the byte of its number

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')

function answer (request, response, body) {
  const url = new URL(request.url, 'http://world')
  response.setHeader('x-number', url.pathname.split('/')[1])
  response.setHeader('x-sha256', sha256(body))
  if (url.searchParams.has('close')) response.setHeader('Connection', 'close')
  if (!url.searchParams.has('chunked')) response.setHeader('Content-Length', body.length)
  if (request.method === 'HEAD') return response.end()
  response.write(body.subarray(0, body.length / 3))
  response.end(body.subarray(body.length / 3))
}

const server = createServer({ keepAliveTimeout: 60000 }, (request, response) => {
  const [, number, size] = request.url.split(/[/?]/).map(Number)
  if (request.method !== 'POST') {
    request.resume()
    return answer(request, response, pool.subarray(number % MIB, number % MIB + size))
  }
  const hash = createHash('sha256')
  let length = 0
  request.on('data', (bytes) => { hash.update(bytes); length += bytes.length })
  request.on('end', () => answer(request, response, Buffer.from(`${length} ${hash.digest('hex')}`)))
})
server.listen(Number(process.argv[2]), '::')
