// Asks for two responses on one connection with fetch, which is undici's, or with node:http. Arguments: client, cases,
// and base URLs. Prints a line for each, as kept.py.
const http = require('node:http')

const TIME = 20000 // ms
const [client, cases, ...bases] = process.argv.slice(2)

async function fetching () {
  await fetch('data:,') // makes undici's dispatcher, which has the class of others
  const dispatcher = new globalThis[Symbol.for('undici.globalDispatcher.1')].constructor({ connections: 1 })
  return async (url) => {
    const answer = await fetch(url, { dispatcher, signal: AbortSignal.timeout(TIME) })
    return `${answer.status} ${await answer.text()}`
  }
}

async function requesting () {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  return (url) => new Promise((resolve, reject) => {
    http.get(url, { agent, timeout: TIME }, (answer) => {
      let text = ''
      answer.on('data', (bytes) => { text += bytes })
      answer.on('end', () => resolve(`${answer.statusCode} ${text}`))
      answer.on('error', reject)
    }).on('error', reject)
  })
}

async function main () {
  for (const base of bases) {
    for (const name of cases.split(',')) {
      const get = await (client === 'undici' ? fetching : requesting)()
      const outcomes = []
      for (const path of [encodeURIComponent(name), 'after']) {
        outcomes.push(await get(`${base}/${path}`).catch((error) => (error.cause ?? error).code ?? error.name))
      }
      console.log([name, ...outcomes].join(' | '))
    }
  }
}

main().then(() => process.exit(0))
