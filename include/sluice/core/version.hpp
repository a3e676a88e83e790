#pragma once
/// The version of sluice, semantic versioning. Before 1.0 a minor version may break; CHANGELOG.md says how to migrate.
#define SLUICE_VERSION_MAJOR 0
#define SLUICE_VERSION_MINOR 1
#define SLUICE_VERSION_PATCH 0
