import * as api from '../../api/control/credentials.ts'
import { Refused } from '../../api/control/problem.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule } from '../service/routes.ts'
import { type CredentialRow, credentialsOf, sealedColumns } from './credentials.ts'

export const credentialRoutes: RouteModule = (serve, { store, sealer }) => {
  const credentials = credentialsOf(store)
  // By its whole name or id: what was stored cannot be brought back, so nothing may be guessed.
  const meant = async (project: string, typed: string): Promise<CredentialRow> => {
    const [row] = await credentials.find(project, typed)
    if (row !== undefined && (row.name === typed || row.id === typed)) return row
    throw new Refused('not_found', `There is no credential ${typed}.`, {
      fix:
        row === undefined
          ? 'ropeway credential list shows them.'
          : `Give the whole name, such as ${row.name}.`,
    })
  }
  serve(api.listCredentials, async ({ project, query }) =>
    pageAnswer(await credentials.list({ project: project.id, sort: 'name', ...pageAsked(query) }), view),
  )
  serve(api.createCredential, async ({ project, body, audit }) =>
    store.transaction(async () => {
      const id = store.ids.next('credential')
      const columns = sealedColumns(sealer, id, body.values)
      const row = await credentials.insert({
        id,
        project_id: project.id,
        name: body.name,
        status: {},
        ...columns,
      })
      if (row === undefined)
        throw new Refused('name_taken', `There is already a credential ${body.name}.`, {
          param: 'name',
          fix: 'Choose another name, or replace its values.',
        })
      await audit('credential.create', id, { name: row.name, kind: row.spec.kind })
      return view(row)
    }),
  )
  serve(api.replaceCredential, async ({ project, params, body, audit }) => {
    const { id } = await meant(project.id, params.credential)
    return await store.transaction(async () => {
      const row = (await credentials.change(id, () => sealedColumns(sealer, id, body.values)))!
      await audit('credential.replace', id, { name: row.name, kind: row.spec.kind })
      return view(row)
    })
  })
  serve(api.deleteCredential, async ({ project, params, audit }) => {
    const { id, name } = await meant(project.id, params.credential)
    await store.transaction(async () => {
      // A secret that was deleted is gone, not hidden.
      await credentials.purge(id)
      await audit('credential.delete', id, { name })
    })
  })
}

function view({ id, name, spec, created_at, updated_at }: CredentialRow) {
  return { id, name, kind: spec.kind, fields: [...spec.fields], created_at, updated_at }
}
