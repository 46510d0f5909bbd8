import * as api from '../../api/control/workspaces.ts'
import type { RouteModule } from '../service/routes.ts'
import type { Workspaces } from './workspaces.ts'

export function workspaceRoutes(workspaces: Workspaces): RouteModule {
  return (serve) => {
    serve(api.putWorkspace, ({ project, body }) => workspaces.put(project.id, body.files))
    serve(api.putWorkspaceContent, ({ project, params, body }) =>
      workspaces.send(project.id, params.content, body),
    )
  }
}
