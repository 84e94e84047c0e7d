// Sends mixed requests with fetch, which is undici's, and checks each body by its hash.
// Arguments: the number of requests, then the URLs of servers as tests/world/mixed.js, which are asked in turn.
const { createHash, randomBytes } = require('node:crypto')

const MIB = 1024 * 1024
const WORKERS = 32
const [count, ...servers] = [Number(process.argv[2]), ...process.argv.slice(3)]
const pool = randomBytes(MIB)
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')

function sizeOf (number) { // from 0 to 1 MiB, most of them small
  if (number % 500 < 2) return (number % 500) * MIB
  return Math.floor(2 ** (20 * ((number * 0.618034) % 1) ** 2)) - 1
}

async function * pieces (body) { // undici waits forever behind an empty piece
  const half = body.length >> 1
  if (half > 0) yield body.subarray(0, half)
  if (body.length > half) yield body.subarray(half)
}

async function one (number) {
  const method = ['GET', 'POST', 'GET', 'POST', 'HEAD'][number % 5]
  const size = sizeOf(number)
  const options = [number % 3 === 0 && 'chunked', number % 23 === 0 && 'close'].filter(Boolean).join('&')
  const sent = pool.subarray(0, size)
  const init = { method }
  if (method === 'POST') Object.assign(init, { body: number % 7 < 3 ? pieces(sent) : sent, duplex: 'half' })
  const answer = await fetch(`${servers[number % servers.length]}/${number}/${size}?${options}`, init)
  const body = Buffer.from(await answer.arrayBuffer())
  const wanted = method === 'POST' ? `${size} ${sha256(sent)}` : null
  const problems = [
    answer.status !== 200 && `status ${answer.status}`,
    answer.headers.get('x-number') !== String(number) && 'the response to another request',
    method !== 'HEAD' && answer.headers.get('x-sha256') !== sha256(body) && 'another hash',
    method === 'GET' && body.length !== size && `${body.length} bytes`,
    method === 'HEAD' && body.length !== 0 && 'a body for HEAD',
    wanted !== null && body.toString() !== wanted && 'the upload has another hash'
  ].filter(Boolean)
  if (problems.length > 0) throw new Error(`${method} ${number} of ${size} bytes: ${problems}`)
}

let next = 0
async function work () {
  while (next < count) await one(next++)
}

Promise.all(Array.from({ length: WORKERS }, work)).then(() => console.log(`${count} checked`))
