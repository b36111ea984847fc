"""Where things are."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from notes import views

urlpatterns = [
    path("", views.index, name="index"),
    path("notes/", views.create, name="create"),
    path("notes/<int:pk>/", views.show, name="show"),
    path("results/", views.results, name="results"),
    path("admin/", admin.site.urls),
]
