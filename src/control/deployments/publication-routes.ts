import { Refused } from '../../api/control/problem.ts'
import * as api from '../../api/control/publications.ts'
import type { RouteModule } from '../service/routes.ts'
import type { PublicationRow, Publications, Published } from './publications.ts'

export function publicationRoutes(publications: Publications): RouteModule {
  return (serve, { store }) => {
    serve(api.viewPublication, async ({ project, params }) => {
      const row = await publications.of(project.id, params.deployment)
      if (row !== undefined) return viewOf(row)
      throw new Refused('not_found', `Nothing was published to ${params.deployment}.`, {
        fix: 'A job does with publish: {deployment: NAME} in its file.',
      })
    })
    serve(api.rollbackPublication, async ({ project, params, audit }) =>
      store.transaction(async () => {
        const row = await publications.rollback(project.id, params.deployment)
        await audit('deployment.latest-rollback', row.spec.deployment, { to: row.status.current.number })
        return viewOf(row)
      }),
    )
  }
}

function viewOf({ name, status: { current, previous } }: PublicationRow): api.PublicationView {
  const shown = ({ number, checkpoint, job, step, at }: Published) => ({
    ...{ name: `${name}@${number}`, checkpoint, job, step, at },
  })
  return { name, current: shown(current), previous: previous && shown(previous) }
}
