/** What happened to a deployment: written down, and sent to people's chat where the deployment asks for it. */
import { writeMessage } from '../jobs/notices.ts'
import { recordEvent } from '../store/events.ts'
import type { Store } from '../store/store.ts'
import type { DeploymentEvent, DeploymentRow } from './rows.ts'

/** In the transaction of the change that the event tells of. */
export async function tell(store: Store, row: DeploymentRow, event: DeploymentEvent): Promise<void> {
  const { id, name, project_id } = row
  await recordEvent(store, { subject: id, project: project_id, ...event })
  // Deployments that were made before there were messages have none.
  const notify = row.spec.notify ?? null
  const kind = event.kind.slice('deployment.'.length)
  if (notify === null || !(notify.on as readonly string[]).includes(kind)) return
  await writeMessage(store, row, notify.slack, `Deployment ${name}: ${event.message} (${id})`)
}
