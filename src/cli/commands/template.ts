import { dirname, resolve } from 'node:path'
import type { Command } from 'commander'
import * as api from '../../api/control/job-templates.ts'
import { readJobFile } from '../job-file.ts'
import { all, completeWith, type NounFlags, onService, type Session } from '../noun.ts'
import { line, timeText } from '../output.ts'
import { note } from '../terminal.ts'
import { uploadWorkspace } from '../workspace-upload.ts'

export function templateCommand(program: Command): void {
  const noun = program
    .command('template')
    .description('job files that the project keeps: ropeway job run -t NAME')
  onService(
    noun.command('list', { isDefault: true }).description('list them'),
    async (session, _: NounFlags) => {
      session.out.list(await listed(session), {
        NAME: ({ name }) => name,
        KIND: ({ file }) => ('run' in file ? 'run' : 'train'),
        CHANGED: ({ updated_at }) => timeText(updated_at),
      })
    },
  )
  onService(
    noun
      .command('save')
      .description('keep a job file and its folder under a name')
      .argument('<name>')
      .requiredOption('-f, --file <file>', 'job file (YAML)'),
    save,
  )
  const view = noun.command('view').description('print its job file').argument('<name>')
  onService(completeWith(view, names), async ({ client, project }, _: NounFlags, template: string) =>
    line(
      JSON.stringify((await client.call(api.viewTemplate, { params: { project, template } })).file, null, 2),
    ),
  )
  const remove = noun.command('delete').description('forget it').argument('<name>')
  onService(completeWith(remove, names), async ({ client, project }, _: NounFlags, template: string) => {
    await client.call(api.deleteTemplate, { params: { project, template } })
    note(`${template} is forgotten; jobs that were made of it are not touched.`)
  })
}

function listed({ client, project }: Session) {
  return all(client.items(api.listTemplates, { params: { project }, query: {} }))
}

async function names(session: Session): Promise<string[]> {
  return (await listed(session)).map(({ name }) => name)
}

async function save(session: Session, flags: NounFlags & { file: string }, template: string): Promise<void> {
  const file = readJobFile(flags.file)
  const out = typeof file.out === 'string' ? file.out : 'out'
  const workspace = await uploadWorkspace(session, dirname(resolve(flags.file)), out)
  const params = { project: session.project, template }
  await session.client.call(api.saveTemplate, { params, body: { file, workspace } })
  note(`ropeway job run -t ${template} runs it.`)
}
