/** What the tests of the page share: stores, the real `recursor view`, and a browser. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

const HERE = dirname(fileURLToPath(import.meta.url))
export const PYTHON = process.env.PYTHON ?? join(HERE, '../../.venv/bin/python')
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium'

export const folder = mkdtempSync(join(tmpdir(), 'recursor-viewer-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))

/** Makes a store and returns its path and the ids of its runs. */
export function store(kind) {
  const path = join(folder, `${kind}.db`)
  const made = spawnSync(PYTHON, [join(HERE, 'runs.py'), kind, path], { encoding: 'utf-8' })
  if (made.status !== 0) throw new Error(made.stderr)
  return { path, ids: made.stdout.trim().split(/\s+/) }
}

/** A run that waits, in a process of its own. */
export async function running(path) {
  const child = spawn(PYTHON, [join(HERE, 'runs.py'), 'live', path], { stdio: ['ignore', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  await lines.next() // "waiting"
  return { ended: async () => (await lines.next()).value, kill: () => child.kill('SIGKILL') }
}

/** `recursor view`, until `close`. */
export async function serve(path) {
  const child = spawn(PYTHON, ['-m', 'recursor', 'view', '--no-browser', '--store', path], { stdio: ['ignore', 'ignore', 'pipe'] })
  const lines = createInterface({ input: child.stderr })[Symbol.asyncIterator]()
  const link = (await lines.next()).value
  return { link, close: () => child.kill('SIGINT') }
}

export async function browse() {
  const quiet = ['--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run']
  const root = process.getuid?.() === 0 ? ['--no-sandbox'] : []
  return chromium.launch({ executablePath: CHROMIUM, args: [...quiet, ...root] })
}

/** A page that fails the test when its own code fails, or asks anybody but its server. */
export async function open(browser, link, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options })
  const page = await context.newPage()
  const faults = []
  page.on('pageerror', (error) => faults.push(`error: ${error.message}`))
  page.on('console', (message) => message.type() === 'error' && faults.push(`console: ${message.text()}`))
  page.on('dialog', (dialog) => { faults.push(`dialog: ${dialog.message()}`); dialog.dismiss() })
  page.on('request', (request) => {
    const own = link.startsWith('file:') ? 'file:' : new URL(link).origin
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(own)) faults.push(`request: ${request.url()}`)
  })
  page.setDefaultTimeout(15000)
  await page.goto(link)
  return { page, faults, close: () => context.close() }
}

export const show = (page, hash) => page.evaluate((to) => { location.hash = to }, hash)
