/** Data of a project in the page: uploaded from a browser, looked at, linked. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { ropeway } from '../cli/command-line.ts'
import { describeAtThePage } from './at-the-page.ts'

const records = [1, 2, 3].map((n) => JSON.stringify({ prompt: `question ${n}`, completion: `answer ${n}` }))
const mebibyte = 1024 * 1024

describeAtThePage(
  'data in the page',
  {
    prepare: (bench) => {
      mkdirSync(`${bench.folder}/reviews/more`, { recursive: true })
      writeFileSync(`${bench.folder}/reviews/train.jsonl`, records.join('\n'))
      writeFileSync(`${bench.folder}/reviews/more/notes.txt`, 'a note')
      writeFileSync(`${bench.folder}/reviews/.hidden`, 'of the system')
      // Three parts: that of the middle will fail once.
      writeFileSync(`${bench.folder}/Large File.txt`, Buffer.alloc(17 * mebibyte, 'abcdefghijklmno\n'))
    },
    links: ['Data'],
  },
  (at) => {
    test('a chosen folder becomes a dataset: its records, files and statistics show', async () => {
      await at.page.getByText('No data yet').waitFor()
      await at.page.getByLabel('Choose a folder').setInputFiles(`${at.bench.folder}/reviews`)
      await at.page.getByText('2 files').waitFor()
      await at.page.getByLabel('Dataset, new').fill('reviews')
      await at.page.getByRole('button', { name: 'Upload', exact: true }).click()
      await at.page.getByRole('heading', { name: 'reviews', exact: true }).waitFor()
      await at.page.getByLabel('Record at line 2').getByText('answer 2').waitFor()
      await at.page.getByText('4 records in').waitFor()
      await at.page.getByRole('button', { name: 'Copy line for a job file' }).click()
      await at.page.getByText('Copied').waitFor()
      expect(await at.page.evaluate('navigator.clipboard.readText()')).toBe(
        'data: {train: dataset:reviews/train.jsonl, validation: 0.05}',
      )
      const files = await ropeway(['dataset', 'files', 'reviews', '--json'])
      expect(files.json.map((file) => file.path)).toEqual(['more/notes.txt', 'train.jsonl'])
    })

    test('another upload is another version, and the one before can still be looked at', async () => {
      await at.page.getByLabel('Choose files').setInputFiles({
        ...{ name: 'train.jsonl', mimeType: 'application/jsonl' },
        buffer: Buffer.from(records.slice(0, 1).join('\n')),
      })
      await at.page.getByLabel('What is new').fill('fewer of them')
      await at.page.getByRole('button', { name: 'Upload a new version' }).click()
      await at.page.getByText('2 records in').waitFor()
      await at.page.getByRole('cell', { name: 'fewer of them' }).waitFor()
      await at.page.getByRole('row', { name: /^1 2 / }).getByRole('link', { name: '1' }).click()
      await at.page.getByText('version 1 of 2').waitFor()
      await at.page.getByText('4 records in').waitFor()
    })

    test('an upload that fails goes on where it was: what arrived is not sent again', async () => {
      await at.page.getByRole('link', { name: 'Data', exact: true }).click()
      const sent: string[] = []
      let refusals = 1
      await at.page.route('**/uploads/*/parts/*', async (route) => {
        const part = route.request().url().split('/').at(-1)!
        if (part === '3' && refusals-- > 0) return await route.abort('failed')
        sent.push(part)
        await route.continue()
      })
      await at.page.getByLabel('Choose files').setInputFiles(`${at.bench.folder}/Large File.txt`)
      await expect.poll(() => at.page.getByLabel('Dataset, new').inputValue()).toBe('large-file')
      await at.page.getByRole('button', { name: 'Upload', exact: true }).click()
      await at.page.getByText('What arrived is kept').waitFor()
      const before = new Set(sent)
      await at.page.getByRole('button', { name: 'Go on' }).click()
      await at.page.getByRole('heading', { name: 'large-file', exact: true }).waitFor()
      expect(before.size).toBeGreaterThan(0)
      expect(sent.toSorted()).toEqual(['1', '2', '3'])
      await at.page.unroute('**/uploads/*/parts/*')
    })

    test('what is dropped is taken, and a name made of its own', async () => {
      await at.page.getByRole('link', { name: 'Data', exact: true }).click()
      const dropped = await at.page.evaluateHandle(`(() => {
      const transfer = new DataTransfer()
      transfer.items.add(new File(['one'], 'One.txt'))
      return transfer
    })()`)
      await at.page.getByText('Drop files or a folder here').dispatchEvent('drop', { dataTransfer: dropped })
      await at.page.getByText('One.txt, 3 B').waitFor()
      await expect.poll(() => at.page.getByLabel('Dataset, new').inputValue()).toBe('one')
    })

    test('a folder that is dropped is taken with all that lies in it, but what begins with a dot', async () => {
      await at.page.reload()
      const session = await at.page.context().newCDPSession(at.page)
      const zone = at.page.getByText('Drop files or a folder here')
      const { x, y } = (await zone.boundingBox())!
      const data = { items: [], files: [`${at.bench.folder}/reviews`], dragOperationsMask: 1 }
      for (const type of ['dragEnter', 'dragOver', 'drop'] as const)
        await session.send('Input.dispatchDragEvent', { type, x: x + 5, y: y + 5, data })
      await at.page.getByText('2 files').waitFor()
      await at.page.getByText('more/notes.txt').waitFor()
      await expect.poll(() => at.page.getByText('.hidden').count()).toBe(0)
    })

    test('an upload that is stopped sends nothing more, and goes on when it is asked to', async () => {
      await at.page.getByRole('link', { name: 'Data', exact: true }).click()
      await at.page.reload()
      let open = () => {}
      const gate = new Promise<void>((resolve) => {
        open = resolve
      })
      const sent: string[] = []
      await at.page.route('**/uploads/*/parts/*', async (route) => {
        sent.push(route.request().url().split('/').at(-1)!)
        await gate
        // What the page has given up cannot go on.
        await route.continue().catch(() => undefined)
      })
      writeFileSync(`${at.bench.folder}/Slow File.txt`, Buffer.alloc(33 * mebibyte, 'zyxwvutsrqponml\n'))
      await at.page.getByLabel('Choose files').setInputFiles(`${at.bench.folder}/Slow File.txt`)
      await at.page.getByRole('button', { name: 'Upload', exact: true }).click()
      await expect.poll(() => sent.length).toBe(2)
      await at.page.getByRole('button', { name: 'Stop' }).click()
      await at.page.getByText('It was stopped.').waitFor()
      open()
      expect(sent.length).toBe(2)
      await at.page.getByRole('button', { name: 'Go on' }).click()
      await at.page.getByRole('heading', { name: 'slow-file', exact: true }).waitFor()
      expect(new Set(sent).size).toBe(5)
      await at.page.unroute('**/uploads/*/parts/*')
      await at.page.getByRole('link', { name: 'Data', exact: true }).click()
    })

    test('a folder of the machine is linked, and one that may not be is refused with a reason', async () => {
      await at.page.getByText('Link a bucket or a folder').click()
      await at.page.getByLabel('Name of the dataset').fill('linked')
      await at.page.getByLabel('Where it lies').fill('ftp://somewhere/else')
      await at.page.getByRole('button', { name: 'Link', exact: true }).click()
      await at.page.getByText('ftp:// cannot be linked.').waitFor()
      await at.page.getByLabel('Where it lies').fill(`file://${at.bench.folder}/reviews`)
      await at.page.getByRole('button', { name: 'Link', exact: true }).click()
      await at.page.getByRole('heading', { name: 'linked', exact: true }).waitFor()
      await at.page.getByRole('button', { name: 'Delete' }).click()
      await at.page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
      await at.page.getByRole('link', { name: 'reviews' }).waitFor()
      await expect.poll(() => at.page.getByRole('link', { name: 'linked' }).count()).toBe(0)
      expect(at.complaints.filter((text) => !/status of 40[01]|ERR_FAILED/.test(text))).toEqual([])
    })

    test('a browser that cannot hash says so, and names the command', async () => {
      const plain = await at.page.context().newPage()
      await plain.addInitScript(() => Object.defineProperty(crypto, 'subtle', { value: undefined }))
      await plain.goto(`${at.bench.service.url}/projects/default/data/reviews`)
      await plain.getByText('ropeway dataset upload reviews FILE_OR_FOLDER').waitFor()
      await expect.poll(() => plain.getByLabel('Choose files').count()).toBe(0)
      await plain.close()
    })
  },
)
