/** The page as people use it: in a browser, over the real server and a real store. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { browse, folder, open, PYTHON, running, serve, show, store } from './browser.mjs'

let browser
before(async () => { browser = await browse() })
after(async () => { await browser.close() })

describe('runs that have ended', () => {
  let made, server, shown
  const page = () => shown.page
  before(async () => {
    made = store('plain')
    server = await serve(made.path)
    shown = await open(browser, server.link)
  })
  after(async () => { await shown.close(); server.close() })
  const fresh = async (hash) => {
    await show(page(), '/')
    await page().waitForSelector('h1:text("Runs")')
    if (hash) await show(page(), hash)
  }
  const sound = () => assert.deepEqual(shown.faults, [])

  test('the list shows how each run ended, and its search narrows it', async () => {
    await fresh()
    assert.deepEqual(await page().locator('.list .state').allTextContents(), ['failed', 'max turns', 'answered'])
    await page().keyboard.press('/')
    await page().keyboard.type('and when')
    await page().waitForFunction(() => document.querySelectorAll('.list tbody tr').length === 1)
    await page().getByLabel('Search questions').fill('')
    await page().getByLabel('State').selectOption('answered')
    await page().waitForFunction(() => document.querySelectorAll('.list tbody tr').length === 1)
    await page().getByLabel('State').selectOption('stopped')
    await page().waitForSelector('text=No run matches')
    await page().getByLabel('State').selectOption('')
    sound()
  })

  test('a run is opened, walked through and left by keys alone', async () => {
    await fresh()
    await page().waitForSelector('.list tbody tr')
    await page().keyboard.press('Escape')
    await page().keyboard.press('j')
    await page().keyboard.press('j')
    await page().keyboard.press('Enter')
    await page().waitForSelector('.row.current')
    assert.match(await page().locator('.row.current').textContent(), /Who dances\?/)
    await page().keyboard.press('j')
    assert.match(await page().locator('.row.current').textContent(), /Turn 1/)
    await page().waitForSelector('.cell')
    await page().keyboard.press('ArrowLeft')
    assert.equal(await page().locator('.row.current').getAttribute('aria-expanded'), 'false')
    await page().keyboard.press('a')
    await page().waitForSelector('text=Natasha dances; Pierre watches.')
    await page().keyboard.press('s')
    await page().waitForSelector('.calls')
    await page().keyboard.press('u')
    await page().waitForSelector('h1:text("Runs")')
    sound()
  })

  test('keys that a person presses things with do that, and nothing else', async () => {
    await fresh()
    await page().getByLabel('Mark to compare').nth(0).click()
    await page().getByLabel('Mark to compare').nth(2).click()
    await page().keyboard.press('c') // with the focus on the box
    await page().waitForSelector('h1:text("Two runs")')
    await fresh(`/run/${made.ids[0]}`)
    await page().waitForSelector('.row.current')
    await page().locator('a.brand').focus()
    await page().keyboard.press('Tab')
    assert.match(await page().evaluate(() => document.activeElement.textContent), /system/)
    await page().keyboard.press(' ')
    await page().waitForFunction(() => document.documentElement.dataset.theme === 'light')
    await page().keyboard.press('Enter')
    await page().keyboard.press('Enter')
    await page().waitForFunction(() => document.documentElement.dataset.theme === 'system')
    assert.equal(await page().locator('[role=tab][aria-selected=true]').textContent(), 'Trace')
    const tree = page().getByRole('tree')
    assert.match(await page().locator(`#${await tree.getAttribute('aria-activedescendant')}`).textContent(), /Who dances/)
    sound()
  })

  test('a run that failed says why, and what it cost', async () => {
    await fresh()
    assert.doesNotMatch(await page().locator('.list tbody tr').first().textContent(), /unknown/)
    await fresh(`/run/${made.ids[2]}`)
    await page().waitForSelector('.notice.error:has-text("401 the key was refused")')
    sound()
  })

  test('a list fits a narrow window', async () => {
    await page().setViewportSize({ width: 400, height: 800 })
    await fresh()
    await page().waitForSelector('.list tbody tr')
    assert.ok(await page().evaluate(() => document.querySelector('.list').getBoundingClientRect().right <= innerWidth))
    await page().setViewportSize({ width: 1440, height: 900 })
    sound()
  })

  test('code stands beside its output, and the line of an error is marked', async () => {
    await fresh(`/run/${made.ids[0]}/trace/turn/${made.ids[0]}/2`)
    await page().waitForSelector('.cell.failed')
    assert.match(await page().locator('.cell.failed .wrong code').textContent(), /missing_name/)
    assert.match(await page().locator('.cell.failed .raised').textContent(), /NameError/)
    const [code, output] = await Promise.all(['.code', '.output'].map((name) => page().locator(`.cell >> nth=0 >> ${name}`).boundingBox()))
    assert.ok(output.x >= code.x + code.width - 1, 'output is to the right of the code')
    sound()
  })

  test('what a cell did to the variables is listed', async () => {
    await fresh(`/run/${made.ids[0]}/trace/turn/${made.ids[0]}/1`)
    await page().waitForSelector('.variables')
    assert.match(await page().locator('.variables tr.new').first().textContent(), /parts.*list/)
    sound()
  })

  test('deep links lead to a call, and the difference to the prompt before it is shown', async () => {
    await fresh(`/run/${made.ids[0]}`)
    await page().locator('.row', { hasText: 'Reply of root' }).nth(1).click()
    await page().waitForSelector('h2:text("Reply of the root LM")')
    const link = page().url()
    await fresh()
    await page().goto(link)
    await page().waitForSelector('h2:text("Reply of the root LM")')
    await page().getByText('Difference to the one before').click()
    await page().waitForSelector('.diff .new')
    await page().getByText('The one before', { exact: true }).click()
    await page().waitForFunction((before) => location.href !== before, link)
    sound()
  })

  test('the flame chart is as wide as time, tokens or money', async () => {
    await fresh(`/run/${made.ids[0]}`)
    const measure = () => page().locator('.flame-bar .faint').textContent()
    await page().waitForSelector('.flame canvas')
    await page().keyboard.press('1')
    assert.match(await measure(), /(s|ms|min)$/)
    await page().keyboard.press('2')
    await page().waitForFunction(() => /tokens$/.test(document.querySelector('.flame-bar .faint').textContent))
    await page().keyboard.press('3')
    await page().waitForFunction(() => /^\$/.test(document.querySelector('.flame-bar .faint').textContent))
    await page().keyboard.press('+')
    await page().waitForFunction(() => / of /.test(document.querySelector('.flame-bar .faint').textContent))
    await page().keyboard.press('0')
    await page().keyboard.press('1')
    const box = await page().locator('.flame canvas').boundingBox()
    await page().mouse.click(box.x + box.width / 2, box.y + 10)
    assert.match(await page().locator('.detail h2').textContent(), /The run/)
    const colours = await page().evaluate(() => {
      const canvas = document.querySelector('.flame canvas')
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
      return new Set(Array.from({ length: data.length / 4 }, (_, at) => data.slice(4 * at, 4 * at + 4).join())).size
    })
    assert.ok(colours > 4, 'it is drawn')
    sound()
  })

  test('sub-calls are grouped by template with failures first, sorted and filtered', async () => {
    await fresh(`/run/${made.ids[0]}/calls`)
    await page().waitForSelector('.calls-row')
    assert.match(await page().locator('.calls-row').first().textContent(), /failed: 503/)
    await page().getByRole('button', { name: /^#/ }).click()
    assert.match(await page().locator('.calls-row').first().textContent(), /part 0\?/)
    await page().getByLabel('failed only').check()
    await page().waitForFunction(() => document.querySelectorAll('.calls-row').length === 1)
    await page().getByLabel('failed only').uncheck()
    await page().getByLabel('Search prompts and replies').fill('part 5?')
    await page().waitForFunction(() => document.querySelectorAll('.calls-row').length === 1)
    await page().locator('.calls-row').click()
    await page().waitForSelector('h2:text("Sub-call")')
    sound()
  })

  test('coverage leads from a strip to the text, and from the text to the calls that read it', async () => {
    await fresh(`/run/${made.ids[0]}/coverage`)
    await page().waitForSelector('.passage pre')
    assert.match(await page().locator('.coverage .bar').first().textContent(), /\d+ % read/)
    await page().waitForSelector('.passage aside a')
    const box = await page().locator('.close .heat canvas').boundingBox()
    await page().mouse.click(box.x + box.width * 0.5, box.y + 10)
    await page().waitForFunction(() => /coverage\/0\/\d+$/.test(location.hash))
    await page().waitForSelector('.passage aside a:text("sub-call")')
    await page().locator('.passage aside a').first().click()
    await page().waitForSelector('h2:text("Sub-call")')
    await fresh(`/run/${made.ids[1]}/coverage`)
    await page().waitForSelector('text=It is not known what was read')
    sound()
  })

  test('evidence leads from the answer to the passage of the context in which it stands', async () => {
    await fresh(`/run/${made.ids[0]}/answer`)
    await page().locator('.evidence a', { hasText: 'in the context' }).click()
    await page().waitForFunction(() => /coverage\/0\/\d+$/.test(location.hash))
    sound()
  })

  test('isolation, context and cost are told', async () => {
    await fresh(`/run/${made.ids[0]}/about`)
    const text = await page().locator('.detail-body').textContent()
    for (const part of ['network', 'none', 'sha256:', 'sub-calls', 'test/sub', 'str']) assert.ok(text.includes(part), part)
    sound()
  })

  test('two runs are compared side by side', async () => {
    await fresh()
    const boxes = page().locator('.list tbody input[type=checkbox]')
    await boxes.nth(1).check()
    await boxes.nth(2).check()
    await page().getByRole('button', { name: 'Compare two' }).click()
    await page().waitForSelector('.versus')
    assert.match(await page().locator('.versus tr', { hasText: 'Model' }).first().textContent(), /otherroot/)
    await page().waitForSelector('.diff')
    sound()
  })

  test('what is not there is said, with the way back', async () => {
    await fresh('/run/0123456789abcdef')
    await page().waitForSelector('[role=alert]')
    assert.match(await page().locator('[role=alert]').textContent(), /there is no run/)
    await page().getByText('All runs').click()
    await page().waitForSelector('h1:text("Runs")')
    shown.faults.length = 0 // the browser reports the 404 itself
  })

  test('light and dark differ, and the choice is kept', async () => {
    await fresh()
    const ground = () => page().evaluate(() => getComputedStyle(document.body).backgroundColor)
    const grounds = new Set()
    for (const theme of ['light', 'dark', 'system']) {
      await page().locator('.ghost').click()
      await page().waitForFunction((wanted) => document.documentElement.dataset.theme === wanted, theme)
      grounds.add(await ground())
    }
    assert.equal(grounds.size, 2)
    sound()
  })

  test('it can be used in a narrow window', async () => {
    await page().setViewportSize({ width: 420, height: 800 })
    await fresh(`/run/${made.ids[0]}`)
    await page().waitForSelector('.row')
    assert.ok(await page().evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing sticks out')
    await page().setViewportSize({ width: 1440, height: 900 })
    sound()
  })

  test('the address works once', async () => {
    const other = await open(browser, server.link)
    assert.match(await other.page.textContent('body'), /opened before/)
    await other.close()
  })
})

describe('a run that goes', () => {
  test('grows on the page, and stops by its button', async () => {
    const path = join(folder, 'live.db')
    const run = await running(path)
    const server = await serve(path)
    const shown = await open(browser, server.link)
    try {
      await shown.page.waitForSelector('.state.live')
      await shown.page.locator('.list tbody tr a').click()
      await shown.page.waitForSelector('.row >> text=Turn 1')
      await shown.page.getByRole('button', { name: 'Stop' }).click()
      await shown.page.waitForSelector('.run-head .state:text("stopped")')
      assert.equal(await run.ended(), 'RunStopped')
      assert.deepEqual(shown.faults, [])
    } finally {
      await shown.close()
      server.close()
      run.kill()
    }
  })

  test('says so when the viewer answers no more', async () => {
    const path = join(folder, 'lost.db')
    const run = await running(path)
    const server = await serve(path)
    const shown = await open(browser, server.link)
    try {
      await shown.page.locator('.list tbody tr a').click()
      await shown.page.waitForSelector('.row >> text=Turn 1')
      server.close()
      await shown.page.waitForSelector('.run-head .bad:has-text("does not answer")')
      await shown.page.getByRole('button', { name: 'Stop' }).click()
      await shown.page.waitForSelector('.run-head .bad:has-text("Start it again")')
      assert.equal(await shown.page.getByRole('button', { name: 'Stop' }).isEnabled(), true)
    } finally {
      await shown.close()
      run.kill()
    }
  })

  test('names of the language are names of states like any other', async () => {
    const made = store('plain')
    const named = join(folder, 'named.db')
    const change = "import sqlite3, sys; a, b = map(sqlite3.connect, sys.argv[1:]); a.backup(b); b.execute(\"UPDATE run SET stop_reason = 'constructor' WHERE error IS NULL\"); b.execute(\"UPDATE call SET purpose = 'toString' WHERE purpose = 'sub'\"); b.commit()"
    assert.equal(spawnSync(PYTHON, ['-c', change, made.path, named]).status, 0)
    const server = await serve(named)
    const shown = await open(browser, server.link)
    try {
      await shown.page.waitForSelector('.list .state:text("constructor")')
      assert.deepEqual(shown.faults, [])
    } finally {
      await shown.close()
      server.close()
    }
  })
})

describe('hostile texts', () => {
  let made, server, shown
  before(async () => {
    made = store('hostile')
    server = await serve(made.path)
    shown = await open(browser, server.link)
  })
  after(async () => { await shown.close(); server.close() })

  const looked = async (page, id) => {
    for (const place of ['', `/run/${id}`, `/run/${id}/trace/turn/${id}/1`, `/run/${id}/calls`, `/run/${id}/answer`, `/run/${id}/about`]) {
      await show(page, place)
      await page.waitForSelector('.page .state, .page .list')
      await page.waitForLoadState('networkidle')
    }
    await show(page, `/run/${id}`)
    await page.locator('.row', { hasText: /Reply/ }).first().click()
    await page.waitForSelector('.said')
    return page.evaluate(() => ({ pwned: window.pwned, title: document.title, text: document.body.textContent, elements: document.querySelectorAll('main img, main script, main iframe, main b:not(.bad)').length }))
  }

  test('nothing in them runs, loads or becomes an element on the page', async () => {
    const seen = await looked(shown.page, made.ids[0])
    assert.equal(seen.pwned, undefined)
    assert.equal(seen.elements, 0)
    assert.ok(seen.text.includes('<script>window.pwned = 1</script>'), 'they are shown as they are')
    assert.doesNotMatch(seen.text, /[\x00\x1b\x9b\u202e]/)
    assert.deepEqual(shown.faults, [])
  })

  test('nor in a file of its own', async () => {
    const file = join(folder, 'hostile.html')
    const said = spawnSync(PYTHON, ['-m', 'recursor', 'runs', 'export', made.ids[0], '--store', made.path, '--format', 'html', '-o', file], { encoding: 'utf-8' })
    assert.equal(said.status, 0, said.stderr)
    const alone = await open(browser, `file://${file}`)
    await alone.page.waitForSelector('.row')
    const seen = await looked(alone.page, made.ids[0])
    assert.equal(seen.pwned, undefined)
    assert.equal(seen.elements, 0)
    assert.deepEqual(alone.faults, [])
    await alone.close()
  })
})

describe('100,000 sub-calls', () => {
  test('few elements, whatever is open and wherever it is scrolled', async () => {
    const made = store('large')
    const server = await serve(made.path)
    const { page, faults, close } = await open(browser, server.link)
    try {
      const elements = () => page.evaluate(() => document.querySelectorAll('*').length)
      await show(page, `/run/${made.ids[0]}`)
      await page.getByRole('treeitem', { name: '100,000 sub-calls' }).click()
      await page.waitForSelector('text=Sub-call 5')
      assert.ok(await elements() < 800, `${await elements()} elements`)
      await page.evaluate(() => { document.querySelector('.panes .virtual').scrollTop = 1e7 })
      await page.waitForSelector('text=Sub-call 100000')
      assert.ok(await elements() < 800)
      await page.getByText('Sub-call 100000').click()
      await page.waitForSelector('text=Is item 99999')
      await show(page, `/run/${made.ids[0]}/calls`)
      await page.waitForSelector('.calls-row')
      await page.getByLabel('Search prompts and replies').fill('item 77777 ')
      await page.waitForFunction(() => document.querySelectorAll('.calls-row').length === 1)
      assert.deepEqual(faults, [])
    } finally {
      await close()
      server.close()
    }
  })
})
